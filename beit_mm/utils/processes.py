"""Operating-system processes."""

import ctypes
import resource
import signal
import sys


def end_with_parent(by: int = signal.SIGTERM) -> None:
    """From now on this signal comes when the process that started this one is gone, however it went (Linux, by the kernel)."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(1, by)  # PR_SET_PDEATHSIG


def peak_memory_mib(usage: resource.struct_rusage | None = None) -> float:
    """Return the peak resident memory in MiB of this process, or of the process with this usage."""
    usage = usage or resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_maxrss / (2**20 if sys.platform == 'darwin' else 2**10)

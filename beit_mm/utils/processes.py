"""Processes of the operating system."""

import ctypes
import os
import resource
import signal
import sys
import warnings

_RANK_VARIABLES = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')


def end_with_parent(by: int = signal.SIGTERM) -> None:
    """Make the kernel send this signal when the parent process ends for any reason (Linux only)."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(1, by)  # PR_SET_PDEATHSIG


def peak_memory_mib(usage: resource.struct_rusage | None = None) -> float:
    """Return the peak resident memory in MiB of this process, or of the process with this usage."""
    usage = usage or resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_maxrss / (2**20 if sys.platform == 'darwin' else 2**10)


def silence_other_ranks() -> None:
    """Ignore all warnings unless this process is rank 0, which prints the same ones.

    Call it before imports that warn.
    """
    rank = next((os.environ[name] for name in _RANK_VARIABLES if name in os.environ), '0')
    if rank != '0':
        warnings.simplefilter('ignore')

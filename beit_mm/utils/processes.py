"""Operating-system processes."""

import ctypes
import signal
import sys


def end_with_parent(by: int = signal.SIGTERM) -> None:
    """From now on this signal comes when the process that started this one is gone, however it went (Linux, by the kernel)."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(1, by)  # PR_SET_PDEATHSIG

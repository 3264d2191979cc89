"""Running one command of a chain on this terminal: forked where that saves the imports, its memory watched."""

import ctypes
import importlib
import multiprocessing
import os
import runpy
import signal
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .. import compat
from .commands import readable


class StageFailed(Exception):
    """A stage's command did not end well."""


def execute(title: str, command: list[str], log_dir: Path) -> float:
    """Run a command on this terminal; the peak memory (GiB) of this process with all below it.

    Raises StageFailed with the title, the exit code and the newest log in `log_dir`.
    """
    say(f'{title}\n   {readable(command)}')
    if _is_script(command):
        _preload()
    sys.stdout.flush()
    interrupt, peak = signal.getsignal(signal.SIGINT), 0.0
    process = multiprocessing.get_context('fork').Process(target=_become, args=(command, interrupt))
    try:
        with _no_interrupt():
            process.start()
        while process.is_alive():
            peak = max(peak, tree_rss(os.getpid()) / 2**30)
            process.join(timeout=0.5)
    except BaseException:
        process.terminate()
        process.join()
        raise
    if process.exitcode:
        logs = sorted(log_dir.glob('*/*.log'))
        where = f'; its log: {logs[-1]}' if logs else ''
        raise StageFailed(f'{title} failed with exit code {process.exitcode}{where}\n   {readable(command)}')
    return peak


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Ctrl-C waits until the end: what Python calls around a fork would swallow it. A fork in here has to set it anew.

    A mask would not do: a signal that this thread blocks comes to another, and what it does happens in this one.
    """
    came = []
    usual = signal.signal(signal.SIGINT, lambda *_: came.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if came:
        signal.raise_signal(signal.SIGINT)


def _is_script(command: list[str]) -> bool:
    return command[0] == sys.executable and command[1].endswith('.py')


def _preload() -> None:
    """Import once what each stage would import for seconds; a fork of this process has it then."""
    importlib.import_module('beit_mm.engine.launch')
    for host in filter(compat.installed, ('mmpretrain', 'mmseg')):
        for part in ('models', 'datasets', 'engine', 'evaluation', 'visualization'):
            importlib.import_module(f'{host}.{part}')


def _become(command: list[str], interrupt: Callable | int) -> None:
    """In a fork: run a Python script in here, as `python SCRIPT` would; any other command takes the process's place.

    So does every command on a machine with a GPU, whose driver does not survive a fork.
    """
    signal.signal(signal.SIGINT, interrupt)
    end_with_parent()  # a run saves and ends
    if not _is_script(command) or importlib.import_module('mmengine.device').get_device() != 'cpu':
        os.environ.setdefault('PYTHON', sys.executable)  # what tools/*.sh start
        os.execvp(command[0], command)
    sys.argv = command[1:]
    runpy.run_path(command[1], run_name='__main__')


def end_with_parent(by: int = signal.SIGTERM) -> None:
    """From now on this signal comes when the process that started this one is gone, however it went (Linux, by the kernel)."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(1, by)  # PR_SET_PDEATHSIG


def tree_rss(root: int) -> int:
    """Bytes resident in a process and its descendants now, shared pages counted in each; 0 where there is no /proc."""
    children, page = defaultdict(list), os.sysconf('SC_PAGE_SIZE')
    for stat in Path('/proc').glob('[0-9]*/stat'):
        with suppress(OSError, IndexError):  # it has just ended
            children[int(stat.read_text().rpartition(')')[2].split()[1])].append(int(stat.parent.name))
    total, tree = 0, [root]
    while tree:
        pid = tree.pop()
        tree += children[pid]
        with suppress(OSError, IndexError):
            total += int(Path(f'/proc/{pid}/statm').read_text().split()[1]) * page
    return total


def say(text: str) -> None:
    print(f'━━ {text}', flush=True)

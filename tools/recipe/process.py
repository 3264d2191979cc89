"""Running one command of a chain on this terminal: forked where that saves the imports, its memory watched."""

import importlib
import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections import defaultdict
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

from beit_mm import compat
from beit_mm.utils.processes import end_with_parent

from .commands import readable

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
_POLL_SECONDS, _POLLS_PER_LOOK = (
    0.05,
    10,
)  # how often the end is checked, and after how many of these the memory


class StageFailed(Exception):
    """Error of a stage whose command ended with another exit code than 0."""


class Stopped(BaseException):
    """Signal that ended a stage, or was passed on to it; `number` is the signal's."""

    def __init__(self, number: int):
        super().__init__(f'stopped by {signal.Signals(number).name}')
        self.number = number


def execute(title: str, command: list[str], log_dir: Path) -> float:
    """Run a command on this terminal; return the peak memory (GiB) of this process and all its descendants.

    SIGTERM, SIGUSR1 and Ctrl-C are passed on, and the command's end is waited for: a run saves first.

    Raises StageFailed with the title, the exit code and the newest log in `log_dir`, Stopped after such a signal.
    """
    say(f'{title}\n   {readable(command)}')
    if _is_script(command):
        _preload()
    sys.stdout.flush()
    process = multiprocessing.get_context('fork').Process(target=_become, args=(command,))
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in SIGNALS
    }
    try:
        # Blocked until the child has its own handlers: one that comes to it earlier waits, and is not lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        peak = _watch(process, received)
    except BaseException:
        if process.pid:
            process.terminate()
            process.join()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    code = process.exitcode
    ended_by = -code if code < 0 else code - 128
    if received or ended_by in SIGNALS:
        raise Stopped(received[0] if received else ended_by)
    if code:
        logs = sorted(log_dir.glob('*/*.log'))
        where = f'; its log: {logs[-1]}' if logs else ''
        raise StageFailed(f'{title} failed with exit code {code}{where}\n   {readable(command)}')
    return peak


def _watch(process: BaseProcess, received: list[int]) -> float:
    """Wait for a process, pass the signals in `received` on to it, and return the peak memory (GiB).

    `process.join(timeout)` would not do: after an exec it blocks until the end.
    """
    peak, polls, passed = 0.0, 0, 0
    while process.is_alive():
        for number in received[passed:]:
            passed += 1
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)
        if polls % _POLLS_PER_LOOK == 0:
            peak = max(peak, tree_rss(os.getpid()) / 2**30)
        polls += 1
        time.sleep(_POLL_SECONDS)
    return peak


def _is_script(command: list[str]) -> bool:
    return command[0] == sys.executable and command[1].endswith('.py')


def _preload() -> None:
    """Import once what each stage would import for seconds; a fork of this process has it then."""
    importlib.import_module('beit_mm.engine.launch')
    for host in filter(compat.installed, ('mmpretrain', 'mmseg')):
        for part in ('models', 'datasets', 'engine', 'evaluation', 'visualization'):
            importlib.import_module(f'{host}.{part}')


def _become(command: list[str]) -> None:
    """In a fork: run a Python script in here, as `python SCRIPT` would; any other command takes the process's place.

    So does every command on a machine with a GPU, whose driver does not survive a fork.
    """
    for number in SIGNALS:
        signal.signal(
            number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        )
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    end_with_parent()  # a run saves and ends
    if not _is_script(command) or importlib.import_module('mmengine.device').get_device() != 'cpu':
        os.environ.setdefault('PYTHON', sys.executable)  # what tools/*.sh start
        os.execvp(command[0], command)
    sys.argv = command[1:]
    runpy.run_path(command[1], run_name='__main__')


def tree_rss(root: int) -> int:
    """Bytes resident in a process and its descendants now, shared pages counted in each; 0 where there is no /proc."""
    children, page = defaultdict(list), os.sysconf('SC_PAGE_SIZE')
    for stat in Path('/proc').glob('[0-9]*/stat'):
        with suppress(OSError, IndexError):  # it has just ended
            children[int(stat.read_text().rpartition(')')[2].split()[1])].append(
                int(stat.parent.name)
            )
    total, tree = 0, [root]
    while tree:
        pid = tree.pop()
        tree += children[pid]
        with suppress(OSError, IndexError):
            total += int(Path(f'/proc/{pid}/statm').read_text().split()[1]) * page
    return total


def say(text: str) -> None:
    print(f'━━ {text}', flush=True)

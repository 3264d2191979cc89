"""Run a command of a stage, pass signals on to it, and measure its memory."""

import importlib
import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from beit_mm.utils import packages
from beit_mm.utils.processes import end_with_parent, peak_memory_mib

from .commands import shell_line
from .display import log_tail

# Signal to this process → signal to the command. Training saves on all but SIGHUP, which the kernel
# sends when a terminal is closed.
FORWARDED = {
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGUSR1: signal.SIGUSR1,
    signal.SIGINT: signal.SIGINT,
    signal.SIGHUP: signal.SIGTERM,
}
POLL_SECONDS = 0.05


class StageFailed(Exception):
    """Error of a command that ended with a non-zero exit code."""


class Stopped(BaseException):
    """End of a stage by the signal `number`."""

    def __init__(self, number: int):
        super().__init__(f'stopped by {signal.Signals(number).name}')
        self.number = number


def execute(
    title: str,
    command: list[str],
    log: Path | None = None,
    update: Callable[[], None] = lambda: None,
) -> float:
    """Run a command and return the peak memory (GiB) of its largest process.

    The output is appended to `log`, or goes to this terminal without one. `update` is called every
    0.05 s. SIGTERM, SIGUSR1, SIGINT and SIGHUP are passed on; the command can save before it ends.

    Raises StageFailed with the title, the exit code and the end of the log, and Stopped after a
    signal.
    """
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open('a') as file:
            file.write(f'{shell_line(command)}\n')
    if _is_python_script(command):
        _import_hosts()
    sys.stdout.flush()
    process = multiprocessing.get_context('fork').Process(target=_run_in_child, args=(command, log))
    received: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in FORWARDED
    }
    try:
        # Signals wait until the child has its own handlers; otherwise they would be lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        code, peak = _wait(process.pid, received, update)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    ended_by = -code if code < 0 else code - 128
    if received or ended_by in FORWARDED:
        raise Stopped(received[0] if received else ended_by)
    if code:
        lines = [f'{title} failed with exit code {code}.']
        lines += [f'The end of its log {log}:', log_tail(log)] if log else []
        raise StageFailed('\n'.join([*lines, f'The command was: {shell_line(command)}']))
    return peak


def _wait(pid: int, received: list[int], update: Callable[[], None]) -> tuple[int, float]:
    """Wait for a process and pass on the signals in `received`; return exit code and peak memory.

    Polls, because a handler does not run while a blocking wait4 is interrupted in another thread.
    """
    forwarded = 0
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), peak_memory_mib(usage) / 1024
        for number in received[forwarded:]:
            os.kill(pid, FORWARDED[number])
            forwarded += 1
        update()
        time.sleep(POLL_SECONDS)


def _is_python_script(command: list[str]) -> bool:
    return command[0] == sys.executable and command[1].endswith('.py')


def _import_hosts() -> None:
    """Import once what every stage needs; forks of this process save these seconds."""
    importlib.import_module('beit_mm.engine.launch')
    for host in filter(packages.is_installed, ('mmpretrain', 'mmseg')):
        for part in ('models', 'datasets', 'engine', 'evaluation', 'visualization'):
            importlib.import_module(f'{host}.{part}')


def _run_in_child(command: list[str], log: Path | None) -> None:
    """Run a Python script in this forked process; other commands replace the process.

    The output is appended to `log` if there is one.

    On a machine with a GPU every command replaces the process, since the driver does not survive a
    fork.
    """
    if log:
        _redirect_output(log)
    os.setsid()  # A terminal signals only the parent, which passes the signal on once.
    for number in FORWARDED:
        is_interrupt = number == signal.SIGINT
        signal.signal(number, signal.default_int_handler if is_interrupt else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    end_with_parent()
    get_device = importlib.import_module('mmengine.device').get_device
    if _is_python_script(command) and get_device() == 'cpu':
        sys.argv = command[1:]
        runpy.run_path(command[1], run_name='__main__')
    else:
        os.environ.setdefault('PYTHON', sys.executable)  # for tools/*.sh
        os.execvp(command[0], command)


def _redirect_output(log: Path) -> None:
    """Append the output of this process and of its children to a file."""
    with log.open('ab') as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    sys.stdout = open(1, 'w', buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, 'w', buffering=1, closefd=False)  # noqa: SIM115

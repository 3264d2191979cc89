"""Commands of a stage as processes: signals reach them, they end with the chain, memory is measured."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from recipe import process
from trials.ranks import alive, until

pytestmark = pytest.mark.any_stack

SIGNALS = [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP]


@pytest.mark.skipif(sys.platform != 'linux', reason='the kernel signals the stage')
def test_a_stage_ends_with_the_chain_even_if_that_is_killed(tmp_path):
    stage = "import os, time; os.symlink(str(os.getpid()), 'pid'); time.sleep(999)"
    command = [sys.executable, '-c', stage]
    chain = f'from recipe.process import execute; execute("stage", {command!r}, None)'
    path = os.pathsep.join([str(Path(__file__).parents[3]), *sys.path])
    environment = os.environ | dict(PYTHONPATH=path)
    with subprocess.Popen([sys.executable, '-c', chain], cwd=tmp_path, env=environment) as running:
        assert until((tmp_path / 'pid').is_symlink)
        pid = int(os.readlink(tmp_path / 'pid'))
        assert alive(pid)
        running.send_signal(signal.SIGKILL)
    assert until(lambda: not alive(pid), 60)


def test_ctrl_c_during_the_fork_is_not_lost(tmp_path):
    """Functions that Python calls around a fork swallow exceptions, also KeyboardInterrupt."""
    armed = [signal.SIGINT]
    os.register_at_fork(before=lambda: armed and os.kill(os.getpid(), armed.pop()))
    with pytest.raises(process.Stopped, match='stopped by SIGINT'):
        process.execute('a stage', ['sleep', '60'], tmp_path)
    assert not armed


def test_peak_memory_is_that_of_the_largest_process(tmp_path):
    in_a_shell = ['bash', '-c', '"$@"; true', '-', sys.executable, '-c', "b'x' * (600 << 20)"]
    assert process.execute('a stage', in_a_shell, tmp_path) > 0.59


@pytest.mark.parametrize('number', SIGNALS, ids=lambda number: number.name)
def test_a_signal_is_passed_on_and_the_stage_saves_before_the_chain_ends(tmp_path, number):
    """A closed terminal (SIGHUP) reaches the stage as SIGTERM, and nothing else does."""
    received = int(process.FORWARDED[number])
    stage = f"""
import signal, sys, time; from pathlib import Path
def save(*_): time.sleep(0.3); Path('saved').touch(); sys.exit(1)
signal.signal({received}, save); Path('ready').touch(); time.sleep(60)"""

    def send() -> None:
        if until((tmp_path / 'ready').exists):
            os.kill(os.getpid(), number)

    threading.Thread(target=send).start()
    command = ['bash', '-c', f'cd {tmp_path}; exec "$@"', '-', sys.executable, '-c', stage]
    with pytest.raises(process.Stopped) as stopped:
        process.execute('a stage', command, tmp_path)
    assert stopped.value.number == number and (tmp_path / 'saved').exists()


def test_the_signals_of_a_terminal_reach_the_chain_only(tmp_path):
    group = tmp_path / 'group'
    process.execute('a stage', ['bash', '-c', f'ps -o pgid= $$ > {group}'], tmp_path)
    assert int(group.read_text()) != os.getpgid(0)


def test_an_exit_code_of_a_signal_means_stopped(tmp_path):
    with pytest.raises(process.Stopped, match='stopped by SIGUSR1'):
        process.execute('a stage', ['bash', '-c', 'exit 138'], tmp_path)

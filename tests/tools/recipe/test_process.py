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
    chain = f'from recipe.process import execute; execute("stage", {command!r})'
    path = os.pathsep.join([str(Path(__file__).parents[3]), *sys.path])
    environment = os.environ | dict(PYTHONPATH=path)
    with subprocess.Popen([sys.executable, '-c', chain], cwd=tmp_path, env=environment) as running:
        assert until((tmp_path / 'pid').is_symlink)
        pid = int(os.readlink(tmp_path / 'pid'))
        assert alive(pid)
        running.send_signal(signal.SIGKILL)
    assert until(lambda: not alive(pid), 60)


def test_ctrl_c_during_the_fork_is_not_lost():
    """Functions that Python calls around a fork swallow exceptions, also KeyboardInterrupt."""
    armed = [signal.SIGINT]
    os.register_at_fork(before=lambda: armed and os.kill(os.getpid(), armed.pop()))
    with pytest.raises(process.Stopped, match='stopped by SIGINT'):
        process.execute('a stage', ['sleep', '60'])
    assert not armed


def test_peak_memory_is_that_of_the_largest_process():
    in_a_shell = ['bash', '-c', '"$@"; true', '-', sys.executable, '-c', "b'x' * (600 << 20)"]
    assert process.execute('a stage', in_a_shell) > 0.59


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
        process.execute('a stage', command)
    assert stopped.value.number == number and (tmp_path / 'saved').exists()


def test_the_signals_of_a_terminal_reach_the_chain_only(tmp_path):
    group = tmp_path / 'group'
    process.execute('a stage', ['bash', '-c', f'ps -o pgid= $$ > {group}'])
    assert int(group.read_text()) != os.getpgid(0)


def test_an_exit_code_of_a_signal_means_stopped():
    with pytest.raises(process.Stopped, match='stopped by SIGUSR1'):
        process.execute('a stage', ['bash', '-c', 'exit 138'])


SPEAK = "import os, sys; print('one'); print('two', file=sys.stderr); os.system('echo three')"


@pytest.mark.parametrize('is_script', [True, False], ids=['fork', 'exec'])
def test_all_output_of_a_command_is_appended_to_its_log(tmp_path, monkeypatch, capfd, is_script):
    monkeypatch.setattr(process, '_import_hosts', lambda: None)
    (tmp_path / 'speak.py').write_text(SPEAK)
    words = [str(tmp_path / 'speak.py')] if is_script else ['-uc', SPEAK]
    for _ in range(2):
        process.execute('a stage', [sys.executable, *words], tmp_path / 'new/output.log')
    lines = (tmp_path / 'new/output.log').read_text().splitlines()
    assert [line for line in lines if sys.executable not in line] == ['one', 'two', 'three'] * 2
    assert len(lines) == 8 and not any(capfd.readouterr())


def test_a_failure_shows_the_command_and_the_end_of_the_log(tmp_path):
    log = tmp_path / 'output.log'
    with pytest.raises(process.StageFailed) as failed:
        process.execute('a stage', ['bash', '-c', 'seq 1 99; exit 3'], log)
    first, where, *tail, command = str(failed.value).splitlines()
    assert first == 'a stage failed with exit code 3.' and str(log) in where
    assert [int(line) for line in tail] == list(range(80, 100))
    assert command == "The command was: bash -c 'seq 1 99; exit 3'"

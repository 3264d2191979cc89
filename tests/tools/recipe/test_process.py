"""What a command of a chain is run in, and what is measured of it."""

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


def test_memory_counts_grandchildren():
    grow = "b = b'x' * (200 << 20); print(1, flush=True); input()"
    nested = f'import subprocess, sys; subprocess.run([sys.executable, "-c", {grow!r}])'
    before = process.tree_rss(os.getpid())
    with subprocess.Popen(
        [sys.executable, '-c', nested], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        assert process.tree_rss(os.getpid()) - before > 200 << 20
        child.communicate(b'\n')


@pytest.mark.skipif(sys.platform != 'linux', reason='the kernel tells the stage')
def test_a_stage_ends_with_the_process_that_runs_the_chain_however_that_ends(tmp_path):
    stage = "import os, time; os.symlink(str(os.getpid()), 'pid'); time.sleep(999)"
    chain = f'from recipe.process import execute; execute("stage", {[sys.executable, "-c", stage]!r}, None)'
    environment = os.environ | dict(
        PYTHONPATH=os.pathsep.join([str(Path(__file__).parents[3]), *sys.path])
    )
    with subprocess.Popen([sys.executable, '-c', chain], cwd=tmp_path, env=environment) as running:
        assert until((tmp_path / 'pid').is_symlink)
        pid = int(os.readlink(tmp_path / 'pid'))
        assert alive(pid)
        running.send_signal(signal.SIGKILL)
    assert until(lambda: not alive(pid), 60)


def test_ctrl_c_while_a_stage_is_forked_is_not_lost(tmp_path):
    """What Python calls around a fork swallows exceptions, Ctrl-C's as well."""
    armed = [signal.SIGINT]
    os.register_at_fork(before=lambda: armed and os.kill(os.getpid(), armed.pop()))
    with pytest.raises(process.Stopped, match='stopped by SIGINT'):
        process.execute('a stage', ['sleep', '60'], tmp_path)
    assert not armed


def test_the_memory_of_two_processes_is_measured_after_an_exec(tmp_path):
    """Two children of 200 MiB each, alive until both were seen, or for 30 s."""
    child = """
import time; from pathlib import Path
block = b'x' * (200 << 20); Path(f'{NUMBER}').touch(); end = time.monotonic() + 30
while not Path('seen').exists() and time.monotonic() < end: time.sleep(0.05)"""
    words = ' & '.join(f'{sys.executable} -c "{child.replace("{NUMBER}", str(n))}"' for n in (1, 2))
    measure = process.tree_rss

    def look(pid: int) -> int:
        both = all((tmp_path / name).exists() for name in '12')
        found = measure(pid)
        if both:
            (tmp_path / 'seen').touch()
        return found

    before = measure(os.getpid()) / 2**30
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, 'tree_rss', look)
        peak = process.execute(
            'a stage', ['bash', '-c', f'cd {tmp_path}; {words} & wait'], tmp_path
        )
    assert peak - before > 0.39


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGUSR1], ids=['SIGTERM', 'SIGUSR1'])
def test_a_signal_is_passed_on_and_the_stage_saves_before_the_chain_ends(tmp_path, number):
    stage = f"""
import signal, sys, time; from pathlib import Path
def save(*_): time.sleep(0.3); Path({str(tmp_path / 'saved')!r}).touch(); sys.exit(1)
signal.signal({int(number)}, save); Path({str(tmp_path / 'ready')!r}).touch(); time.sleep(60)"""
    threading.Thread(
        target=lambda: until((tmp_path / 'ready').exists) and os.kill(os.getpid(), number)
    ).start()
    with pytest.raises(process.Stopped) as stopped:
        process.execute('a stage', [sys.executable, '-c', stage], tmp_path)
    assert stopped.value.number == number and (tmp_path / 'saved').exists()


def test_a_stage_that_was_signaled_itself_is_stopped_and_not_failed(tmp_path):
    with pytest.raises(process.Stopped, match='stopped by SIGUSR1'):
        process.execute('a stage', ['bash', '-c', 'exit 138'], tmp_path)
    with pytest.raises(process.StageFailed, match='exit code 3'):
        process.execute('a stage', ['bash', '-c', 'exit 3'], tmp_path)

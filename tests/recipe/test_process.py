"""What a command of a chain is run in, and what is measured of it."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from trials.ranks import alive, until

from beit_mm.recipe import process

pytestmark = pytest.mark.any_stack


def test_memory_counts_grandchildren():
    grow = "b = b'x' * (200 << 20); print(1, flush=True); input()"
    nested = f'import subprocess, sys; subprocess.run([sys.executable, "-c", {grow!r}])'
    before = process.tree_rss(os.getpid())
    with subprocess.Popen([sys.executable, '-c', nested], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert process.tree_rss(os.getpid()) - before > 200 << 20
        child.communicate(b'\n')


@pytest.mark.skipif(sys.platform != 'linux', reason='the kernel tells the stage')
def test_a_stage_ends_with_the_process_that_runs_the_chain_however_that_ends(tmp_path):
    stage = "import os, time; os.symlink(str(os.getpid()), 'pid'); time.sleep(999)"
    chain = f'from beit_mm.recipe.process import execute; execute("stage", {[sys.executable, "-c", stage]!r}, None)'
    environment = os.environ | dict(PYTHONPATH=os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]))
    with subprocess.Popen([sys.executable, '-c', chain], cwd=tmp_path, env=environment) as running:
        assert until((tmp_path / 'pid').is_symlink)
        pid = int(os.readlink(tmp_path / 'pid'))
        assert alive(pid)
        running.send_signal(signal.SIGKILL)
    assert until(lambda: not alive(pid), 60)


def test_ctrl_c_while_a_stage_is_forked_is_not_lost(tmp_path):
    """What Python calls around a fork swallows exceptions, Ctrl-C's as well."""
    armed, before = [signal.SIGINT], signal.signal(signal.SIGINT, signal.default_int_handler)
    os.register_at_fork(before=lambda: armed and os.kill(os.getpid(), armed.pop()))
    end = threading.Event()
    threading.Thread(target=end.wait).start()  # would take a signal that this thread blocks
    try:
        with pytest.raises(KeyboardInterrupt):
            process.execute('a stage', ['sleep', '60'], tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
        end.set()
    assert not armed

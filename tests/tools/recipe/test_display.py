"""Output of the chain runner: a bar with the time left on a terminal, one line per event elsewhere."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from recipe import display
from recipe.display import StageDisplay
from small import ROOT

pytestmark = pytest.mark.any_stack


@pytest.fixture
def bar(tmp_path, monkeypatch):
    """A display on a terminal, whose log is in `tmp_path`, and a function that returns its share."""
    monkeypatch.setenv('FORCE_COLOR', '1')
    monkeypatch.setattr(display, '_REFRESH_SECONDS', 0)
    log = tmp_path / 'output.log'
    log.write_text('Iter(train) [ 90/100]\n')  # of an earlier run
    with StageDisplay('a stage', log, epochs=4) as shown:

        def share_after(text: str) -> float | None:
            with log.open('a') as file:
                file.write(text)
            shown.update()
            task = shown._bar.tasks[0]
            return task.total and task.completed

        yield share_after


def test_the_share_is_that_of_the_last_iteration_in_the_log(bar):
    assert bar('mmengine - INFO - 3/4 of a mile\n') is None
    assert bar('INFO - Iter(train) [  50/1400]  lr: 5e-3\n') == 50 / 1400
    assert bar('INFO - Iter(val) [ 10/10]  top1: 1.0\n') == 50 / 1400
    assert bar('Iter(train) [ 100/1400]\nIter(train) [ 350/1400]\n') == 0.25


@pytest.mark.parametrize('text, share', [
    ('INFO - Epoch(train)  [2][ 50/100]  lr: 1', 1.5 / 4),
    ('INFO - Epoch(test)  [ 20/100]  eta: 0', 0.2),
    ('\r200/800 images\r400/800 images', 0.5),
])  # fmt: skip
def test_epochs_tests_and_counters_are_read_as_well(bar, text, share):
    assert bar(text) == share


CHAIN = f"""
import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'tools')]!r}
from pathlib import Path
from recipe import runner; from recipe.chain import Recipe; from recipe.plan import RunSettings
line = r'Iter(train) [ 350/1400]\\n'
command = f"bash -c 'printf \\"{{line}}\\"; sleep 0.8; printf \\"{{line}}\\"; sleep 0.8'"
runner.run(Recipe('work', [], [command], None, '', ''), RunSettings(Path('work')))
"""


def test_on_a_terminal_a_bar_becomes_one_line_with_the_time(tmp_path):
    leader, follower = pty.openpty()
    environment = os.environ | dict(TERM='xterm', COLUMNS='100')
    command = [sys.executable, '-c', CHAIN]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=follower) as running:
        os.close(follower)
        shown = b''
        while running.poll() is None or not shown.endswith(b's\r\n'):
            try:
                shown += os.read(leader, 4096)
            except OSError:  # the other end is closed
                break
    os.close(leader)
    assert running.returncode == 0
    plain = re.sub(r'\x1b\[[\d;?]*[A-Za-z]', '', shown.decode())
    assert re.search(r'prepare ━+.* 25% 0:00:0\d eta', plain), plain
    assert (
        re.search(r'prepare: done in \d s\r\n$', plain)
        and shown.count(b'\n') - shown.count(b'\x1b[1A') == 1
    )


def test_elsewhere_a_command_is_two_short_lines(tmp_path):
    done = subprocess.run(
        [sys.executable, '-c', CHAIN], cwd=tmp_path, check=True, stdout=subprocess.PIPE, text=True
    )
    first, second = done.stdout.splitlines()
    assert first == 'prepare: started, log: work/prepare.log'
    assert re.fullmatch(r'prepare: done in \d s', second)


def test_the_line_of_a_finished_stage_has_its_main_metrics(tmp_path):
    path = tmp_path / '1/vis_data/scalars.json'
    path.parent.mkdir(parents=True)
    lines = [dict(lr=0.1, loss=2.0, step=8), dict(psnr=20.12, codes_used=509.0, other=1.0, step=8)]
    path.write_text('\n'.join(map(json.dumps, lines)))
    assert display.headline(tmp_path) == 'PSNR 20.1 dB, 509 codes used'
    assert display.headline(Path('nowhere')) == ''

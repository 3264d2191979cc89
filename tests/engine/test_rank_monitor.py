"""Real torchrun and gloo: a fault of one rank ends or stops all of them, by name; a restart goes on.

How soon they end is for `tools/stress.py ranks`. Here a collective may take as long as it likes, unless a rank hangs.
"""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from trials import ranks
from trials.ranks import Run, until

from beit_mm.checkpoint.files import read_file

pytestmark = pytest.mark.any_stack

TIMEOUT = 40  # seconds, of a collective that waits for a rank that hangs, and of ranks that wait for each other at the start


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., Run]]:
    """Starts a run whose rank 1 has its fault at iteration 5; nothing of it lives on."""
    started = []

    def start(*words: object, **settings: object) -> Run:
        started.append(Run(tmp_path, *words, **settings))
        return started[-1]

    yield start
    for run in started:
        run.clear()


def end(run: Run) -> list[int]:
    """The agents' exit codes, when neither they nor their ranks live any more."""
    assert until(lambda: not run.alive()), f'it never ends:\n{run.words()[-4000:]}'
    return [agent.poll() for agent in run.agents]


def test_a_rank_that_is_killed_ends_all_and_is_named(start):
    run = start('kill')
    assert all(end(run)) and re.search(ranks.says('kill', 1), run.words()), run.words()
    assert not (run.work / 'iter_6.pth').exists()


@pytest.mark.long
def test_a_rank_that_raises_ends_all_and_is_named(start):
    run = start('raise')
    assert all(end(run)) and re.search(ranks.says('raise', 1), run.words()), run.words()
    assert not (run.work / 'iter_6.pth').exists()


@pytest.mark.long
@pytest.mark.parametrize(('size', 'agents'), ranks.LAYOUTS)
@pytest.mark.parametrize('fault', ranks.HANGS)
def test_a_rank_that_hangs_ends_all_behind_the_timeout_and_is_named(fault, size, agents, start):
    run = start(fault, size, agents, timeout=TIMEOUT)
    assert until(lambda: run.fault() or not run.alive()) and run.fault(), run.words()
    if fault == 'told':
        run.tell()
    assert all(end(run)) and re.search(ranks.says(fault, 1), run.words()), run.words()
    assert ranks.last(run.work) == 4


def test_no_rank_outlives_torchrun(start):
    run = start('orphan')
    assert until(run.fault), run.words()
    run.agents[0].kill()
    end(run)


@pytest.mark.long
def test_a_restart_goes_on_from_the_last_checkpoint(start):
    run = start('restart')
    assert end(run) == [0], run.words()
    assert len(run.pids()) == 4 and 'iter: 4' in run.words() and ranks.last(run.work) == 8
    assert read_file(run.work / 'iter_8.pth')['meta']['iter'] == 8


@pytest.mark.long
def test_a_rank_that_exits_while_it_tells_the_others_where_it_is_keeps_its_exit_code():
    code = """if True:
        import sys, threading, time, torch
        from beit_mm.engine.rank_monitor import RankMonitor
        store = torch.distributed.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
        torch.distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
        peers = RankMonitor(600)
        peers.stopped.wait = lambda seconds: threading.Event.wait(peers.stopped, 0)
        peers.start()
        time.sleep(0.2)
        sys.exit(143)
    """
    done = subprocess.run([sys.executable, '-c', code], text=True, capture_output=True)
    assert done.returncode == 143, done.stderr


@pytest.mark.long
def test_ranks_leave_out_the_same_update(start):
    run = start('nan')
    assert end(run) == [0], run.words()
    assert re.search(
        r'iteration 5: rank 1: losses loss; samples: 17\.jpg, 19\.jpg\n', run.words()
    ), run.words()
    assert all(
        value.isfinite().all()
        for value in read_file(run.work / 'iter_8.pth')['state_dict'].values()
    )


@pytest.mark.long
def test_ranks_stop_when_their_weights_part(start):
    run = start('apart')
    stop = 'iteration 6: 1 parameters differ between ranks: body.bias'
    assert all(end(run)) and stop in run.words(), run.words()
    assert not (run.work / 'iter_6.pth').exists()


@pytest.mark.long
@pytest.mark.parametrize(('size', 'agents'), ranks.LAYOUTS[1:])
@pytest.mark.parametrize('fault', ['kill', 'raise', 'apart'])
def test_four_ranks_and_two_agents_end_too(fault, size, agents, start):
    run = start(fault, size, agents)
    assert all(end(run)) and re.search(ranks.says(fault, 1), run.words()), run.words()
    assert ranks.last(run.work) == 4

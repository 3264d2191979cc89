"""Real torchrun with gloo: a fault of one rank ends all ranks and is named; a restart resumes.

How soon they end is measured by `tools/stress.py ranks`.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from trials import ranks, toy
from trials.ranks import Run, until

from beit_mm.checkpoint.files import read_file
from beit_mm.engine.rank_monitor import RankMonitor

pytestmark = pytest.mark.any_stack

TIMEOUT_SECONDS = 40  # of a collective that waits for a rank that hangs, also at the start


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., Run]]:
    """Start a run whose rank 1 has its fault at iteration 5; kill what is left of it."""
    started = []

    def start(*words: object, **settings: object) -> Run:
        started.append(Run(tmp_path, *words, **settings))
        return started[-1]

    yield start
    for run in started:
        run.kill_all()


def end(run: Run) -> list[int]:
    """Return the agents' exit codes after they and all ranks have ended."""
    assert until(lambda: not run.alive()), f'it never ends:\n{run.output()[-4000:]}'
    return [agent.poll() for agent in run.agents]


@pytest.mark.parametrize(
    ('fault', 'size', 'agents'),
    [
        ('kill', 2, 1),
        pytest.param('raise', 2, 1, marks=pytest.mark.long),
        *(
            pytest.param(fault, *layout, marks=pytest.mark.long)
            for layout in ranks.LAYOUTS[1:]
            for fault in ('kill', 'raise', 'diverge')
        ),
    ],
)
def test_a_fault_of_a_rank_ends_all_and_is_named(fault, size, agents, start):
    run = start(fault, size, agents)
    assert all(end(run)) and re.search(ranks.expected_words(fault, 1), run.output()), run.output()
    assert ranks.last_iteration(run.work) == 4


@pytest.mark.long
@pytest.mark.parametrize(('size', 'agents'), ranks.LAYOUTS)
@pytest.mark.parametrize('fault', ranks.HANGS)
def test_a_rank_that_hangs_ends_all_before_the_timeout_and_is_named(fault, size, agents, start):
    run = start(fault, size, agents, timeout=TIMEOUT_SECONDS)
    assert until(lambda: run.fault() or not run.alive()) and run.fault(), run.output()
    if fault == 'signaled':
        run.signal_ranks()
    assert all(end(run)) and re.search(ranks.expected_words(fault, 1), run.output()), run.output()
    assert ranks.last_iteration(run.work) == 4


def test_no_rank_outlives_torchrun(start):
    run = start('orphan')
    assert until(run.fault), run.output()
    run.agents[0].kill()
    end(run)


@pytest.mark.long
def test_a_restart_resumes_from_the_last_checkpoint(start):
    run = start('restart')
    assert end(run) == [0], run.output()
    assert len(run.pids()) == 4 and 'iter: 4' in run.output()
    assert read_file(run.work / 'iter_8.pth')['meta']['iter'] == 8


@pytest.mark.long
def test_ranks_skip_the_same_step(start):
    run = start('nan')
    assert end(run) == [0], run.output()
    words = r'iteration 5: rank 1: losses loss; samples: 17\.jpg, 19\.jpg\n'
    assert re.search(words, run.output()), run.output()
    state = read_file(run.work / 'iter_8.pth')['state_dict']
    assert all(value.isfinite().all() for value in state.values())


@pytest.mark.long
def test_ranks_stop_when_their_weights_diverge(start):
    run = start('diverge')
    words = 'iteration 6: 1 parameters differ between ranks: body.bias'
    assert all(end(run)) and words in run.output(), run.output()
    assert not (run.work / 'iter_6.pth').exists()


# -- many ranks, simulated on a store

REQUESTS = 3.0  # per second and rank: a heartbeat, a look for the verdict; more for rank 0


class CountingStore:
    """Client of a TCPStore that counts its requests."""

    def __init__(self, port: int, count):
        self.store, self.count = torch.distributed.TCPStore('127.0.0.1', port), count

    def clone(self) -> 'CountingStore':
        return self

    def __getattr__(self, name: str) -> Callable:
        def request(*args: object) -> object:
            with self.count.get_lock():
                self.count.value += 1
            return getattr(self.store, name)(*args)

        return request


@pytest.mark.parametrize(
    ('ranks', 'fault'),
    [
        (16, 'killed'),
        *(
            pytest.param(64, fault, marks=pytest.mark.long)
            for fault in ('killed', 'stopped', 'rank 0 stopped')
        ),
    ],
)
def test_many_ranks_need_few_requests_and_end_when_one_dies_or_hangs(tmp_path, ranks, fault):
    port, log, context = toy.free_port(), tmp_path / 'log', toy.multiprocessing.get_context('fork')
    count, ready, go = context.Value('q'), context.Value('q'), context.Event()

    def rank(number: int) -> None:
        store = CountingStore(port, count)
        torch.distributed.get_rank = lambda: number
        torch.distributed.get_world_size = lambda: ranks
        torch.distributed.distributed_c10d._get_default_store = lambda: store
        monitor = RankMonitor(20 if 'stopped' in fault else 600)
        with ready.get_lock():
            ready.value += 1
        go.wait()
        monitor.start()
        monitor.tick('iteration 1, forward')
        if number != culprit:
            monitor.tick('iteration 1, backward')
        time.sleep(3600)

    culprit = 0 if fault == 'rank 0 stopped' else 5
    processes = [toy.start(rank, number, log=log) for number in range(ranks)]
    server = torch.distributed.TCPStore('127.0.0.1', port, None, True, wait_for_workers=False)
    try:
        assert until(lambda: ready.value == ranks), log.read_text()
        go.set()
        time.sleep(3)
        before, start = count.value, time.monotonic()
        time.sleep(4)
        assert (count.value - before) / (time.monotonic() - start) < REQUESTS * ranks
        number = signal.SIGKILL if fault == 'killed' else signal.SIGSTOP
        os.kill(processes[culprit].pid, number)
        assert until(
            lambda: not any([process.is_alive() for process in processes]), 120
        )  # reaps all
    finally:
        for process in processes:
            process.kill()
        del server
    words = 'ended unexpectedly' if fault == 'killed' else 'behind the others'
    named = re.findall(rf'rank (\d+): .*rank {culprit} {words}', log.read_text())
    assert len(set(named)) == ranks - 1, log.read_text()[-3000:]


@pytest.mark.long
def test_a_rank_that_exits_while_it_writes_its_heartbeat_keeps_its_exit_code():
    code = """if True:
        import sys, threading, time, torch
        from beit_mm.engine.rank_monitor import RankMonitor
        store = torch.distributed.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
        torch.distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
        monitor = RankMonitor(600)
        monitor.stopped.wait = lambda seconds: threading.Event.wait(monitor.stopped, 0)
        monitor.start()
        time.sleep(0.2)
        sys.exit(143)
    """
    done = subprocess.run([sys.executable, '-c', code], text=True, capture_output=True)
    assert done.returncode == 143, done.stderr

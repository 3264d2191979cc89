"""Real torchrun with gloo: a fault of one rank ends all ranks and is named; a restart resumes.

How soon they end is measured by `tools/stress.py ranks`.
"""

import os
import re
import signal
import time
from collections.abc import Callable
from itertools import product

import pytest
import torch
from small import run_python
from trials import ranks, toy
from trials.ranks import until

from beit_mm.engine.rank_monitor import RankMonitor

pytestmark = pytest.mark.any_stack

TIMEOUT_SECONDS = 40  # of a collective that waits for a rank that hangs, also at the start


@pytest.mark.parametrize(
    ('fault', 'layout'),
    [
        *product(('kill', 'orphan', 'signaled twice'), ranks.LAYOUTS[:1]),
        *(
            pytest.param(*each, marks=pytest.mark.long)
            for each in product(ranks.FAULTS, ranks.LAYOUTS)
        ),
    ],
    ids=str,
)
def test_after_a_fault_of_rank_1_all_ranks_end_and_it_is_named_or_skipped(fault, layout, tmp_path):
    settings = dict(timeout=TIMEOUT_SECONDS) if fault in ranks.HANGS else {}
    run = ranks.Run(tmp_path, fault, *layout, **settings)
    wrong, _ = ranks.observe(run, fault, faulty=1)
    assert set(wrong) <= {'late'}, (wrong, run.output())
    if fault not in ('orphan', *ranks.CONTINUES):
        assert ranks.last_iteration(run.work) == 4
    if fault == 'restart':
        assert re.search(r'resuming from \S+/iter_4\.pth', run.output()), run.output()


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
        time.sleep(2)
        before, start = count.value, time.monotonic()
        time.sleep(2)
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
    done = run_python(code)
    assert done.returncode == 143, done.stderr

"""Send a signal to a run at a random moment, on one rank or all; check its end and resume it."""

import os
import random
import shutil
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

from . import toy
from .kill import differences, last_iteration, result

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
START_UP_SHARE = 0.25  # of the runs get their signal in their first second
END_SECONDS, WORKERS_SECONDS = 5, 10  # a run, or its workers, that end later count as late
MAX_SECONDS = 300  # no run takes so long on any machine
WRONG = ('lost', 'wrong exit', 'orphans', 'different')


class Run:
    """The toy run on some ranks, each in its own session.

    No rank starts its last iteration before `end`, so a signal always comes in time.
    """

    def __init__(
        self, work_dir: Path, log: Path, ranks: int = 1, workers: int = 0, **settings: object
    ):
        launcher = 'pytorch' if ranks > 1 else 'none'
        settings = dict(interval=1000, val=10, workers=workers, launcher=launcher) | settings
        cfg = toy.config(work_dir, **settings)
        self.reader, writer = os.pipe()
        os.set_blocking(self.reader, False)
        gate, self.gate = os.pipe()  # nobody writes: it ends when the last writer is closed
        self.last = 0

        def each(done: int) -> None:
            os.write(writer, b'%d\n' % done)
            if done == cfg.train_cfg.max_iters - 1:
                os.read(gate, 1)

        def call() -> None:
            os.setsid()
            os.close(self.gate)
            toy.train(cfg, each)

        port = toy.free_port()
        places = [dict(rank=rank, ranks=ranks, port=port) for rank in range(ranks)]
        places = places if ranks > 1 else [{}]
        self.processes: list[BaseProcess] = [toy.start(call, log=log, **each) for each in places]
        os.close(writer)
        os.close(gate)

    def done(self) -> int:
        """Return the last iteration that a rank has reported."""
        try:
            while lines := os.read(self.reader, 1 << 16).split():
                self.last = max(self.last, *map(int, lines))
        except BlockingIOError:
            pass
        return self.last

    def wait_for(self, iteration: int) -> None:
        end = time.monotonic() + MAX_SECONDS
        while self.done() < iteration and time.monotonic() < end:
            if not any(process.is_alive() for process in self.processes):
                break
            time.sleep(0.002)

    def end(self) -> tuple[list[int], float, float]:
        """Return the exit codes of a shell, the seconds until all ranks and all workers ended."""
        os.close(self.gate)
        start = time.monotonic()
        for process in self.processes:
            process.join(max(0.0, start + MAX_SECONDS - time.monotonic()))
        seconds = workers_seconds = time.monotonic() - start
        while (alive := self._alive()) and workers_seconds < seconds + MAX_SECONDS:
            time.sleep(0.05)
            workers_seconds = time.monotonic() - start
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
        for process in self.processes:
            process.join()
        codes = [process.exitcode for process in self.processes]
        self.done()
        os.close(self.reader)
        codes = [code if code >= 0 else 128 - code for code in codes]
        return codes, seconds, float('inf') if alive else workers_seconds

    def _alive(self) -> list[int]:
        """Return the processes in the sessions of the ranks."""
        sessions, found = {process.pid for process in self.processes}, []
        for stat in Path('/proc').glob('[0-9]*/stat'):
            try:
                state, _, _, session = stat.read_text().rpartition(')')[2].split()[:4]
            except OSError:  # it has just ended
                continue
            if int(session) in sessions and state != 'Z':
                found.append(int(stat.parent.name))
        return found


def signals(n: int, seed: int, folder: Path, ranks: int = 1) -> dict[str, float]:
    """Send a signal to n runs, a share of them in their first second. Return counts:

    `lost`: iterations that a rank reported and the checkpoint lacks; `wrong exit`; `late`;
    `orphans`; `different` results after resuming; the runs signaled `in start-up`.
    """
    toy.light()
    chance, work, log, iters = random.Random(seed), folder / 'signaled', folder / 'log', 40
    uninterrupted = Run(folder / 'uninterrupted', log, ranks, iters=iters)
    if any(uninterrupted.end()[0]):
        raise RuntimeError(f'the run without a signal failed: {log.read_text()[-4000:]}')
    expected = result(folder / 'uninterrupted')
    count = dict.fromkeys((*WRONG, 'late', 'in start-up', 'slowest, s'), 0)
    for _ in range(n):
        number, workers = chance.choice(SIGNALS), chance.choice((0, 2))
        signaled = chance.choice([[chance.randrange(ranks)], list(range(ranks))])
        run = Run(work, log, ranks, workers, iters=iters)
        if chance.random() < START_UP_SHARE:
            signaled = list(range(ranks))  # one rank alone would leave the others waiting
            time.sleep(chance.random())
        else:
            run.wait_for(chance.randrange(1, iters - 5))
            time.sleep(chance.random() * 0.02)
        for rank in signaled:
            os.kill(run.processes[rank].pid, number)
        codes, seconds, workers_seconds = run.end()
        early, code = run.last == 0, 128 + number
        count['in start-up'] += early
        count['lost'] += max(0, run.last - (last_iteration(work) if work.exists() else 0))
        if not (code in codes if early else all(each == code for each in codes)):
            name = signal.Signals(number).name
            print(
                f'{name} to {signaled} after iteration {run.last}: exit codes {codes}', flush=True
            )
            count['wrong exit'] += 1
        count['late'] += seconds > END_SECONDS or workers_seconds > WORKERS_SECONDS
        count['orphans'] += workers_seconds == float('inf')
        count['slowest, s'] = max(count['slowest, s'], round(seconds, 2))
        resumed = Run(work, log, ranks, iters=iters)
        failed = any(resumed.end()[0])
        count['different'] += failed or bool(differences(result(work), expected))
        shutil.rmtree(work)
    return count


def main(n: int, seed: int, folder: Path, ranks: int = 1) -> tuple[dict[str, float], str]:
    """Return the numbers of faults by their kind, and a note."""
    count = signals(n, seed, folder, ranks)
    early, slowest = count.pop('in start-up'), count.pop('slowest, s')
    return count, f'{early} signaled in start-up; the slowest ended in {slowest} s'

"""Tell a run to stop at a random moment, on one rank or all; see when it ends, how, and what it left; then let it go on."""

import os
import random
import shutil
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

from beit_mm.checkpoint.integrity import find_newest

from . import toy
from .kill import NAMES, _iteration, result, same

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
START_UP = 0.25  # the share of runs that are told in their first second
IN_TIME, GONE = 5, 10  # seconds: until a run has ended, until its workers have; later is `late`
FOR_EVER = 300  # seconds: what has not come by then never will, however busy the machine
WRONG = ('lost', 'wrong exit', 'orphans', 'different')  # whatever the machine is at


class Run:
    """The toy on some ranks, each in a session of its own; `done()` is the last iteration that a rank has reported.

    No rank comes to its last iteration before `let_end()`: however slow the one who tells it to stop, it is in time.
    """

    def __init__(
        self, work_dir: Path, log: Path, ranks: int = 1, workers: int = 0, **settings: object
    ):
        self.reader, writer = os.pipe()
        os.set_blocking(self.reader, False)
        launcher = 'pytorch' if ranks > 1 else 'none'
        cfg = toy.config(
            work_dir, interval=1000, val=10, workers=workers, launcher=launcher, **settings
        )
        port, self.last = toy.free_port(), 0
        gate, self.gate = os.pipe()  # nobody writes: its end comes when the last writer is closed

        def each(done: int) -> None:
            os.write(writer, b'%d\n' % done)
            if done == cfg.train_cfg.max_iters - 1:
                os.read(gate, 1)

        def call() -> None:
            os.setsid()
            os.close(self.gate)  # also for the workers that this rank forks
            toy.train(cfg, each)

        where = [
            dict(rank=rank, ranks=ranks, port=port) if ranks > 1 else {} for rank in range(ranks)
        ]
        self.processes: list[BaseProcess] = [toy.start(call, log=log, **place) for place in where]
        os.close(writer)
        os.close(gate)

    def done(self) -> int:
        try:
            while lines := os.read(self.reader, 1 << 16).split():
                self.last = max(self.last, *map(int, lines))
        except BlockingIOError:
            pass
        return self.last

    def wait_for(self, iteration: int) -> None:
        end = time.monotonic() + FOR_EVER
        while (
            self.done() < iteration
            and any(p.is_alive() for p in self.processes)
            and time.monotonic() < end
        ):
            time.sleep(0.002)

    def tell(self, number: int, ranks: list[int]) -> None:
        for rank in ranks:
            os.kill(self.processes[rank].pid, number)

    def let_end(self) -> None:
        if self.gate is not None:
            os.close(self.gate)
            self.gate = None

    def end(self) -> tuple[list[int], float, float]:
        """(exit codes as a shell has them; seconds until all ranks had ended, and until nothing of theirs lived, or inf)."""
        self.let_end()
        start = time.monotonic()
        for process in self.processes:
            process.join(max(0.0, start + FOR_EVER - time.monotonic()))
        took = gone = time.monotonic() - start
        while (alive := self._alive()) and gone < took + FOR_EVER:
            time.sleep(0.05)
            gone = time.monotonic() - start
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
        for process in self.processes:
            process.join()
        codes = [
            code if (code := process.exitcode) >= 0 else 128 - code for process in self.processes
        ]
        self.done()
        os.close(self.reader)
        return codes, took, float('inf') if alive else gone

    def _alive(self) -> list[int]:
        """What still runs in the sessions of these processes."""
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
    """Counts of n runs that were told to stop, a share of them within their first second: `lost` iterations (that a rank had
    behind it and the checkpoint has not), `wrong exit`, `late`, `orphans`, `different` ends once they went on."""
    toy.light()
    chance, work, log, iters = random.Random(seed), folder / 'told', folder / 'log', 40
    whole = Run(folder / 'whole', log, ranks, iters=iters)
    if any(whole.end()[0]):
        raise RuntimeError(f'the run that nobody stops failed: {log.read_text()[-4000:]}')
    expected = result(folder / 'whole')
    count = dict.fromkeys(
        ('lost', 'wrong exit', 'late', 'orphans', 'different', 'in start-up', 'slowest, s'), 0
    )
    for _ in range(n):
        number, workers = chance.choice(SIGNALS), chance.choice((0, 2))
        told = chance.choice([[chance.randrange(ranks)], list(range(ranks))])
        run = Run(work, log, ranks, workers, iters=iters)
        if chance.random() < START_UP:
            told = list(
                range(ranks)
            )  # as any launcher does; one rank alone would leave the others waiting for it
            time.sleep(chance.random())
        else:
            run.wait_for(chance.randrange(1, iters - 5))
            time.sleep(chance.random() * 0.02)
        run.tell(number, told)
        codes, took, gone = run.end()
        path, _ = find_newest(work, NAMES) if work.exists() else (None, [])
        early = run.last == 0
        count['in start-up'] += early
        count['lost'] += max(0, run.last - (_iteration(path) if path else 0))
        fine = 128 + number in codes if early else all(code == 128 + number for code in codes)
        if not fine:
            print(
                f'{signal.Signals(number).name} to {told} behind iteration {run.last}: exit codes {codes}',
                flush=True,
            )
        count['wrong exit'] += not fine
        count['late'] += took > IN_TIME or gone > GONE
        count['orphans'] += gone == float('inf')
        count['slowest, s'] = max(count['slowest, s'], round(took, 2))
        on = Run(work, log, ranks, iters=iters)
        count['different'] += any(on.end()[0]) or not same(result(work), expected)
        shutil.rmtree(work)
    return count


def main(n: int, seed: int, folder: Path, ranks: int = 1) -> bool:
    """The long form; prints its last line and says whether all was well."""
    count = signals(n, seed, folder, ranks)
    words = ', '.join(
        f'{number} {name}' for name, number in count.items() if name not in ('lost', 'slowest, s')
    )
    print(
        f'{n} tried, {count["lost"]} lost, {words}; the slowest ended in {count["slowest, s"]} s',
        flush=True,
    )
    return not any(count[name] for name in (*WRONG, 'late'))

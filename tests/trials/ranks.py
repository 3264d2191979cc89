"""A fault of one rank, or of torchrun itself, on 2 ranks, 4, or 4 of two agents: when all end, what they say, what they leave."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from beit_mm.checkpoint.integrity import find_newest

from .kill import NAMES, _iteration
from .toy import free_port

ROOT = Path(__file__).parents[2]
ITERATIONS, TIMEOUT = (
    12,
    15,
)  # seconds, of a collective; so short is right on a machine that is not five times too slow
HANGS = ('forward', 'stop', 'told')
GOES_ON = ('nan', 'restart')
FAULTS = ('kill', 'raise', *HANGS, 'told twice', 'orphan', 'apart', *GOES_ON)
LAYOUTS = ((2, 1), (4, 1), (4, 2))  # ranks, agents
SOON, FOR_EVER = (
    10,
    300,
)  # seconds: later is `late`; what has not come by then never will, however busy the machine
GOES_WRONG = ('lost', 'late', 'survivors', 'not named', 'wrong exit')


class Run:
    """torchrun, or several, with the ranks of `one_rank.py`; what they print goes to `log`."""

    def __init__(
        self,
        folder: Path,
        fault: str,
        ranks: int = 2,
        agents: int = 1,
        faulty: int = 1,
        iteration: int = 5,
        iterations: int = 8,
        timeout: int = 2 * FOR_EVER,
    ):
        self.work, self.log = folder / 'work', folder / 'log'
        self.work.mkdir(parents=True)
        path = os.pathsep.join(filter(None, [os.environ.get('PYTHONPATH'), str(ROOT)]))
        env = os.environ | dict(PYTHONPATH=path, CUDA_VISIBLE_DEVICES='-1', OMP_NUM_THREADS='1')
        words = [
            f'--nproc-per-node={ranks // agents}',
            f'--nnodes={agents}',
            '--master-addr=127.0.0.1',
        ]
        words += [f'--master-port={free_port()}', '--monitor-interval=0.5']
        words += ['--max-restarts=1'] if fault == 'restart' else []
        does = dict(restart='kill', told='forward').get(fault.removesuffix(' twice'), fault)
        script = [
            Path(__file__).with_name('one_rank.py'),
            does,
            faulty,
            iteration,
            iterations,
            timeout,
            self.work,
        ]
        with self.log.open('a') as log:
            self.agents = [
                subprocess.Popen(
                    [sys.executable, '-m', 'torch.distributed.run', *words, f'--node-rank={node}', *map(str, script)],
                    env=env, stdout=log, stderr=subprocess.STDOUT,
                )
                for node in range(agents)
            ]  # fmt: skip

    def pids(self, restart: int | str = '*') -> list[int]:
        return [int(path.read_text() or 0) for path in self.work.glob(f'pid_*_{restart}')]

    def alive(self) -> bool:
        return any(map(alive, self.pids())) or any(agent.poll() is None for agent in self.agents)

    def fault(self) -> dict | None:
        """When the fault was (`time`, of the monotonic clock) and what was `saved` by then; None before it."""
        path = self.work / 'fault'
        return json.loads(path.read_text()) if path.exists() else None

    def tell(self) -> None:
        """SIGTERM to every rank; torchrun itself knows nothing of it."""
        for pid in filter(alive, self.pids()):
            os.kill(pid, signal.SIGTERM)

    def clear(self) -> None:
        """Whatever still runs is killed."""
        for agent in self.agents:
            agent.kill()
            agent.wait()
        for pid in filter(alive, self.pids()):
            os.kill(pid, signal.SIGKILL)

    def words(self) -> str:
        return self.log.read_text(errors='replace')


def alive(pid: int) -> bool:
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition: Callable[[], object], seconds: float = FOR_EVER) -> bool:
    """Waits for it; False when it did not come."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def last(work: Path) -> int:
    """The iteration of the newest whole checkpoint, or 0."""
    path, _ = find_newest(work, NAMES)
    return _iteration(path) if path else 0


def says(fault: str, rank: int) -> str:
    """A pattern of words that name the faulty rank."""
    return {
        'kill': rf'rank +: {rank} .*\n +exitcode +: -9|rank {rank} ended unexpectedly',
        'restart': r'\(exitcode: -9\) local_rank: \d',
        'raise': f'the disk of rank {rank}',
        'forward': rf'rank {rank} behind the others: rank {rank} at iteration \d+, forward',
        'stop': rf'rank {rank} behind the others',
        'told': rf'rank {rank} behind the others',
        'apart': 'differ between ranks: body.bias',
        'nan': rf'rank {rank}: losses loss; samples: ',
    }.get(fault, '')


def ranks(n: int, seed: int, folder: Path) -> dict[str, float]:
    """Counts of n faults: `lost` (the newest whole checkpoint is older than the last one before the fault), `late` (torchrun
    ends later than SOON, or the timeout and SOON, after the fault), `survivors` (a rank lives SOON after torchrun), `not named`,
    `wrong exit`, and the slowest end."""
    chance, count = random.Random(seed), dict.fromkeys((*GOES_WRONG, 'slowest, s'), 0)
    left: list[str] = []  # each fault comes once before one comes again
    for i in range(n):
        left = left or chance.sample(FAULTS, len(FAULTS))
        fault, (size, agents) = left.pop(), chance.choice(LAYOUTS)
        faulty, iteration = chance.randrange(size), chance.randrange(3, ITERATIONS - 3)
        what = f'{i}: {fault}, rank {faulty} of {size} in {agents} agents, iteration {iteration}'
        place = folder / 'trial'
        run = Run(place, fault, size, agents, faulty, iteration, ITERATIONS, TIMEOUT)
        try:
            found, took = _one(run, fault, faulty)
        finally:
            run.clear()
        for name in found:
            count[name] += 1
        count['slowest, s'] = max(count['slowest, s'], round(took, 1))
        print(f'{what}: ended after {took:.1f} s {", ".join(found)}', flush=True)
        if found:
            with (folder / 'log').open('a') as log:
                log.write(f'{what}: {found}\n{run.words()[-8000:]}')
        shutil.rmtree(place)
    return count


def _one(run: Run, fault: str, faulty: int) -> tuple[list[str], float]:
    """(what is wrong, seconds from the fault, or the signal that ends all at once, to the end of all agents)."""
    if not until(lambda: run.fault() or not run.alive()) or not run.fault():
        return ['wrong exit'], 0.0
    state = run.fault()
    if fault == 'orphan':
        run.agents[faulty % len(run.agents)].kill()
    if fault.startswith('told'):
        run.tell()
    if fault == 'told twice':
        time.sleep(1.5)
        run.tell()
        state['time'] = time.monotonic()
    until(lambda: all(agent.poll() is not None for agent in run.agents))
    took = time.monotonic() - state['time']
    found = []
    if fault not in GOES_ON and took > SOON + TIMEOUT * (fault in HANGS):
        found.append('late')
    if not until(lambda: not any(map(alive, run.pids())), SOON):
        found.append('survivors')
    if not re.search(says(fault, faulty), run.words()):
        found.append('not named')
    if any((agent.poll() == 0) != (fault in GOES_ON) for agent in run.agents):
        found.append('wrong exit')
    saved = (
        ITERATIONS
        if fault in GOES_ON
        else max(map(_iteration, map(Path, state['saved'])), default=0)
    )
    if saved > last(run.work):
        found.append('lost')
    return found, took


def main(n: int, seed: int, folder: Path) -> bool:
    """The long form; prints its last line and says whether all was well."""
    count = ranks(n, seed, folder)
    words = ', '.join(f'{count[name]} {name}' for name in GOES_WRONG)
    print(f'{n} tried, {words}; the slowest ended after {count["slowest, s"]} s', flush=True)
    return not any(count[name] for name in GOES_WRONG)

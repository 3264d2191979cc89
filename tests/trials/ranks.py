"""Faults of one rank, or of torchrun, with 2 or 4 ranks and one or two agents: all must end."""

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

from .kill import last_iteration
from .toy import ROOT, free_port

ITERATIONS = 12
TIMEOUT_SECONDS = 15  # of a collective
LATE_SECONDS = 10  # a run that ends later than that, and its timeout, counts as late
MAX_SECONDS = 300  # no run takes so long on any machine
HANGS = ('forward', 'stop', 'signaled')
CONTINUES = ('nan', 'restart')
FAULTS = ('kill', 'raise', *HANGS, 'signaled twice', 'orphan', 'diverge', *CONTINUES)
LAYOUTS = ((2, 1), (4, 1), (4, 2))  # ranks, agents
WRONG = ('lost', 'late', 'survivors', 'not named', 'wrong exit')


class Run:
    """One or more torchrun agents with the ranks of `one_rank.py`, which print to `log`."""

    def __init__(
        self,
        folder: Path,
        fault: str,
        ranks: int = 2,
        agents: int = 1,
        faulty: int = 1,
        iteration: int = 5,
        timeout: int = 2 * MAX_SECONDS,
    ):
        self.work, self.log = folder / 'work', folder / 'log'
        self.work.mkdir(parents=True)
        path = os.pathsep.join([str(ROOT / 'tests'), os.environ.get('PYTHONPATH', ''), str(ROOT)])
        env = os.environ | dict(PYTHONPATH=path, CUDA_VISIBLE_DEVICES='-1', OMP_NUM_THREADS='1')
        command = [sys.executable, '-m', 'torch.distributed.run', '--master-addr=127.0.0.1']
        command += [f'--nproc-per-node={ranks // agents}', f'--nnodes={agents}']
        command += [f'--master-port={free_port()}', '--monitor-interval=0.5']
        command += ['--max-restarts=1'] if fault == 'restart' else []
        does = dict(restart='kill', signaled='forward').get(fault.removesuffix(' twice'), fault)
        script = [Path(__file__).with_name('one_rank.py'), does, faulty, iteration]
        script = list(map(str, [*script, ITERATIONS, timeout, self.work]))
        with self.log.open('a') as log:
            self.agents = [
                subprocess.Popen(
                    [*command, f'--node-rank={node}', *script],
                    env=env,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
                for node in range(agents)
            ]

    def pids(self) -> list[int]:
        return [int(path.read_text() or 0) for path in self.work.glob('pid_*')]

    def alive(self) -> bool:
        return any(map(alive, self.pids())) or any(agent.poll() is None for agent in self.agents)

    def fault(self) -> dict | None:
        """Return the `time` of the fault and what was `saved` by then; None before it."""
        path = self.work / 'fault'
        return json.loads(path.read_text()) if path.exists() else None

    def signal_ranks(self) -> None:
        """Send SIGTERM to every rank, but not to torchrun."""
        for pid in filter(alive, self.pids()):
            os.kill(pid, signal.SIGTERM)

    def kill_all(self) -> None:
        for agent in self.agents:
            agent.kill()
            agent.wait()
        for pid in filter(alive, self.pids()):
            os.kill(pid, signal.SIGKILL)

    def output(self) -> str:
        return self.log.read_text(errors='replace')


def alive(pid: int) -> bool:
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition: Callable[[], object], seconds: float = MAX_SECONDS) -> bool:
    """Wait for a condition; return whether it came true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def expected_words(fault: str, rank: int) -> str:
    """Return a pattern of the words that name the faulty rank or the parameter."""
    behind = f'rank {rank} behind the others'
    return {
        'kill': rf'rank +: {rank} .*\n +exitcode +: -9|rank {rank} ended unexpectedly',
        'restart': r'\(exitcode: -9\) local_rank: \d',
        'raise': f'the disk of rank {rank}',
        'forward': rf'{behind}: rank {rank} at iteration \d+, forward',
        'stop': behind,
        'signaled': behind,
        'signaled twice': r'exitcode +: 143',
        'diverge': 'differ between ranks: linear.bias',
        'nan': f'rank {rank}: losses loss',
    }.get(fault, '')


def ranks(n: int, seed: int, folder: Path) -> dict[str, float]:
    """Make n runs with a fault. Return counts of what went wrong, and the slowest end:

    `lost`: a checkpoint before the fault is gone; `late`: torchrun ends too late; `survivors`: a
    rank outlives torchrun; `not named`; `wrong exit`.
    """
    chance, count = random.Random(seed), dict.fromkeys((*WRONG, 'slowest, s'), 0)
    left: list[str] = []  # each fault comes once before one comes again
    for i in range(n):
        left = left or chance.sample(FAULTS, len(FAULTS))
        fault, (size, agents) = left.pop(), chance.choice(LAYOUTS)
        faulty, iteration = chance.randrange(size), chance.randrange(3, ITERATIONS - 3)
        what = f'{i}: {fault}, rank {faulty} of {size} in {agents} agents, iteration {iteration}'
        place = folder / 'trial'
        run = Run(place, fault, size, agents, faulty, iteration, TIMEOUT_SECONDS)
        found, seconds = observe(run, fault, faulty)
        for name in found:
            count[name] += 1
        count['slowest, s'] = max(count['slowest, s'], round(seconds, 1))
        print(f'{what}: ended after {seconds:.1f} s {", ".join(found)}', flush=True)
        if found:
            with (folder / 'log').open('a') as log:
                log.write(f'{what}: {found}\n{run.output()[-8000:]}')
        shutil.rmtree(place)
    return count


def observe(run: Run, fault: str, faulty: int) -> tuple[list[str], float]:
    """Return what is wrong, and the seconds from the fault to the end of all agents."""
    try:
        return _observe(run, fault, faulty)
    finally:
        run.kill_all()


def _observe(run: Run, fault: str, faulty: int) -> tuple[list[str], float]:
    """Return what is wrong, and the seconds from the fault to the end of all agents."""
    if not until(lambda: run.fault() or not run.alive()) or not run.fault():
        return ['wrong exit'], 0.0
    state = run.fault()
    if fault == 'orphan':
        run.agents[faulty % len(run.agents)].kill()
    if fault.startswith('signaled'):
        run.signal_ranks()
    if fault == 'signaled twice':
        time.sleep(1.5)
        run.signal_ranks()
        state['time'] = time.monotonic()
    until(lambda: all(agent.poll() is not None for agent in run.agents))
    seconds = time.monotonic() - state['time']
    saved = [int(re.search(r'\d+', name)[0]) for name in state['saved']]
    least = ITERATIONS if fault in CONTINUES else max(saved, default=0)
    limit = LATE_SECONDS + TIMEOUT_SECONDS * (fault in HANGS)
    wrong = {
        'late': fault not in CONTINUES and seconds > limit,
        'survivors': not until(lambda: not any(map(alive, run.pids())), LATE_SECONDS),
        'not named': not re.search(expected_words(fault, faulty), run.output()),
        'wrong exit': any((agent.poll() == 0) != (fault in CONTINUES) for agent in run.agents),
        'lost': least > last_iteration(run.work),
    }
    return [name for name, is_wrong in wrong.items() if is_wrong], seconds


def main(n: int, seed: int, folder: Path) -> tuple[dict[str, float], str]:
    """Return the numbers of faults by their kind, and a note."""
    count = ranks(n, seed, folder)
    return count, f'the slowest ended after {count.pop("slowest, s")} s'

"""Kill a run at random moments and resume it; compare its end with a run that was not killed."""

import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import torch

from beit_mm.checkpoint.files import read_file
from beit_mm.checkpoint.integrity import find_newest

from . import toy

NAMES = r'(iter|epoch)_\d+\.pth'


def differences(one: object, other: object, place: str = '') -> list[str]:
    """Return the places where two nested dicts, lists and tensors differ in any bit."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        one, other = dict(enumerate(one)), dict(enumerate(other))
    if isinstance(one, dict) and isinstance(other, dict):
        found = []
        for key in {**one, **other}:
            found += differences(one.get(key), other.get(key), f'{place}/{key}')
        return found
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [place]
    return [] if one == other else [place]


def newest(work_dir: Path) -> Path | None:
    return find_newest(path for path in work_dir.glob('*') if re.fullmatch(NAMES, path.name))[0]


def result(work_dir: Path) -> dict:
    """Return the last checkpoint of a run without clock times, and its best weights."""
    last, best = read_file(newest(work_dir)), sorted(work_dir.glob('best_*.pth'))
    found = {key: last[key] for key in ('state_dict', 'optimizer', 'param_schedulers')}
    info = last['message_hub']['runtime_info']
    return found | dict(
        position=(last['meta']['epoch'], last['meta']['iter'], info['best_score']),
        best=[read_file(path)['state_dict'] for path in best],
        files=sorted(path.name for path in work_dir.glob('*.pth')),
    )


def last_iteration(work_dir: Path) -> int:
    """Return the number in the name of the newest intact checkpoint, or 0."""
    path = newest(work_dir)
    return int(re.search(r'\d+', path.stem)[0]) if path else 0


def kills(n: int, seed: int, folder: Path, epochs: bool = False) -> dict[str, int]:
    """Kill runs n times and resume them. Return counts:

    `lost`: iterations whose save was complete but that was not found; `not resumed`; `partial files` and
    `different` results at the `ends` that were reached.
    """
    toy.light()
    chance, work, log = random.Random(seed), folder / 'killed', folder / 'log'
    toy.start(toy.train, toy.config(folder / 'uninterrupted', epochs=epochs), log=log).join()
    expected = result(folder / 'uninterrupted')
    count = dict.fromkeys(('lost', 'not resumed', 'partial files', 'different', 'ends'), 0)
    reached = killed = 0
    while killed < n or work.exists():
        waits = chance.randrange(4) if killed < n else None
        code, iteration = _run_and_kill(work, log, epochs, waits, chance.random() * 0.06)
        reached = max(reached, iteration)
        if code == -signal.SIGKILL:
            killed += 1
            if not epochs:  # the save of the last iteration may have been in progress
                count['lost'] += max(0, reached - 1 - last_iteration(work))
        elif code:
            count['not resumed'] += 1
            killed += 1
            if killed > n:
                break
        else:
            count['ends'] += 1
            count['different'] += bool(differences(result(work), expected))
            count['partial files'] += len(list(work.glob('.*.tmp')))
            shutil.rmtree(work)
            reached = 0
    return count


def _run_and_kill(
    work: Path, log: Path, epochs: bool, iterations: int | None, seconds: float
) -> tuple[int, int]:
    """Kill a run after these iterations and seconds; return its exit code and last iteration."""
    reader, writer = os.pipe()
    cfg = toy.config(work, epochs=epochs)
    process = toy.start(toy.train, cfg, lambda done: os.write(writer, b'%d\n' % done), log=log)
    os.close(writer)
    last = 0
    with os.fdopen(reader) as reports:
        if iterations is not None:
            for _ in range(iterations):
                last = max(last, int(reports.readline() or 0))
            time.sleep(seconds)
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        last = max([last, *map(int, reports)])
    return process.exitcode, last


def main(n: int, seed: int, folder: Path) -> tuple[dict[str, int], str]:
    """Return the numbers of faults by their kind, and a note."""
    count = kills(n, seed, folder)
    return count, f'{count.pop("ends")} runs to their end'

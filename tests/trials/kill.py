"""Kill a run at random moments around its saves, resume it, kill it again; then compare it with one that nobody killed."""

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


def same(a: object, b: object) -> bool:
    """Equal to the last bit, through dicts and lists."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def result(work_dir: Path) -> dict:
    """What a run ends with: its last checkpoint without clock times, and its best weights."""
    last, best = read_file(find_newest(work_dir, NAMES)[0]), list(work_dir.glob('best_*.pth'))
    info = last['message_hub']['runtime_info']
    return dict(
        {key: last[key] for key in ('state_dict', 'optimizer', 'param_schedulers')},
        place=(
            last['meta']['epoch'],
            last['meta']['iter'],
            info['best_score'],
            sorted(path.name for path in best),
        ),
        best=[read_file(path)['state_dict'] for path in best],
        kept=sorted(path.name for path in work_dir.glob('*.pth')),
    )


def kills(n: int, seed: int, folder: Path, epochs: bool = False) -> dict[str, int]:
    """Counts of n kills: `unreadable` (no whole checkpoint though one was saved), `lost` (iterations behind the last save that
    came to its end), `not resumed`, `half files left`, and `different` ends of the runs that came to one."""
    toy.light()
    chance, work, log = random.Random(seed), folder / 'killed', folder / 'log'
    whole = toy.start(toy.train, toy.config(folder / 'whole', epochs=epochs), log=log)
    whole.join()
    expected = result(folder / 'whole')
    count = dict.fromkeys(
        ('unreadable', 'lost', 'not resumed', 'half files left', 'different', 'ends'), 0
    )
    saved = killed = 0
    while killed < n or work.exists():
        reader, writer = os.pipe()
        process = toy.start(
            toy.train,
            toy.config(work, epochs=epochs),
            lambda done, writer=writer: os.write(writer, b'%d\n' % done),
            log=log,
        )
        os.close(writer)
        reports = os.fdopen(reader)
        if killed < n:
            for _ in range(chance.randrange(4)):
                saved = max(saved, int(reports.readline() or 0))
            time.sleep(chance.random() * 0.06)
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        saved = max([saved, *map(int, reports)])
        reports.close()
        if process.exitcode == -signal.SIGKILL:
            killed += 1
            path, _ = find_newest(work, NAMES)
            found = _iteration(path) if path else 0
            if not epochs:
                count['unreadable'] += saved > 1 and not path
                count['lost'] += max(0, saved - 1 - found)  # the last save may be in flight
        elif process.exitcode:
            count['not resumed'] += 1
            killed += killed < n
            if killed >= n:
                break
        else:
            count['ends'] += 1
            count['different'] += not same(result(work), expected)
            count['half files left'] += len(list(work.glob('.*.tmp')))
            shutil.rmtree(work)
            saved = 0
    return count


def _iteration(path: Path) -> int:
    return int(re.search(r'\d+', path.stem)[0])


def main(n: int, seed: int, folder: Path) -> bool:
    """The long form; prints its last line and says whether nothing was lost."""
    start, count = time.monotonic(), kills(n, seed, folder)
    words = ', '.join(
        f'{number} {name}' for name, number in count.items() if name not in ('lost', 'ends')
    )
    print(
        f'{n} tried, {count["lost"]} lost, {words}; {count["ends"]} runs to their end, {time.monotonic() - start:.0f} s',
        flush=True,
    )
    return not any(number for name, number in count.items() if name != 'ends')

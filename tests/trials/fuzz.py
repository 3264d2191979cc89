"""Random settings, sizes, weights, files, pickles, configs and names: the properties of tests/fuzz, from any seed, by the thousand.

Each property runs in a process of its own, so that one that crashes or hangs is counted and the others go on.
"""

import importlib
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from . import toy

TESTS = Path(__file__).parents[1]
FILES = 'fuzz', 'viz/test_report.py'
HEAVY = (
    'hypothesis',
    'scipy.interpolate',
    'mmpretrain.models',
    'mmpretrain.datasets',
    'mmseg.models',
    'mmseg.datasets',
)
HANGS = 180  # seconds without the end of a case, the import of the hosts among them


class Properties:
    """Collects (node of pytest, cases of a short run) as a plugin of pytest's."""

    def __init__(self):
        self.found: list[tuple[str, int]] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self.found = [
            (item.nodeid, item.obj.examples) for item in items if hasattr(item.obj, 'examples')
        ]


def fuzz(n: int, seed: int, log: Path) -> Counter:
    """How n cases ended: `right`, `refused`, `executed`, `wrong`; and `crashed`, `hung` processes, with the cases that were
    `lost` so."""
    toy.light()
    for module in HEAVY:  # once, for all processes
        importlib.import_module(module)
    collected = Properties()
    process = toy.start(_collect, collected, log.with_name('properties'), log=log)
    process.join()
    properties = [
        line.rsplit(' ', 1) for line in log.with_name('properties').read_text().splitlines()
    ]
    count, notes, left = Counter(), log.with_name('notes'), n
    weights = sum(int(cases) for _, cases in properties)
    for place, (node, cases) in enumerate(properties):
        # A property may have fewer different cases than its share: the last ones, which have no end of them, do the rest.
        share = max(1, left * int(cases) // weights) if place < len(properties) - 1 else left
        weights -= int(cases)
        if not left:
            break
        notes.write_text('')
        tried = _run(node, min(share, left), seed, notes, log, count)
        left -= tried
    return count


def _collect(collected: Properties, out: Path) -> None:
    _pytest([*(str(TESTS / file) for file in FILES), '--collect-only'], [collected])
    # The longest stay last: what they are short of, nothing makes up for.
    out.write_text(
        '\n'.join(
            f'{node} {cases}' for node, cases in sorted(collected.found, key=lambda each: each[1])
        )
    )


def _run(node: str, cases: int, seed: int, notes: Path, log: Path, count: Counter) -> int:
    """Cases that were tried, or lost."""
    process = toy.start(_try, node, cases, seed, notes, log=log)
    size, since = 0, time.monotonic()
    while process.is_alive():
        process.join(0.2)
        if (now := notes.stat().st_size) > size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > HANGS:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            count['hung'] += 1
    ended = Counter(notes.read_text().split())
    count.update(ended)
    lost = 0
    if process.exitcode:
        count['crashed'] += process.exitcode != -signal.SIGKILL
        lost = cases - ended.total()
        count['lost'] += lost
    name = node.rpartition('::')[2].removeprefix('test_').replace('_', ' ')
    words = ', '.join(f'{number} {word}' for word, number in sorted(ended.items()))
    print(
        f'{name}: {words or "none"}{f"; exit code {process.exitcode}" if process.exitcode else ""}',
        flush=True,
    )
    return ended.total() + lost


def _try(node: str, cases: int, seed: int, notes: Path) -> None:
    os.environ.update(BEIT_MM_FUZZ_CASES=str(cases), BEIT_MM_FUZZ_NOTES=str(notes))
    code = _pytest([node, f'--hypothesis-seed={seed}', '-s'], [])
    os._exit(int(code))


def _pytest(arguments: list[str], plugins: list) -> int:
    os.chdir(TESTS.parent)
    return pytest.main(
        ['-q', '-p', 'no:cacheprovider', f'--rootdir={TESTS.parent}', *arguments], plugins
    )


def main(n: int, seed: int, folder: Path) -> bool:
    """The long form; prints its last line and says whether all was well."""
    start, count = time.monotonic(), fuzz(n, seed, folder / 'log')
    bad = ('lost', 'executed', 'wrong', 'crashed', 'hung')
    tried = sum(count[word] for word in ('right', 'refused', 'executed', 'wrong', 'lost'))
    words = ', '.join(f'{count[word]} {word}' for word in bad)
    print(
        f'{tried} tried, {words}; {count["right"]} right, {count["refused"]} refused, {time.monotonic() - start:.0f} s',
        flush=True,
    )
    return tried >= n and not any(count[word] for word in bad)

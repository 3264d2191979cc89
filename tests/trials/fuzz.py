"""The properties of tests/fuzz with many random cases, each property in its own process."""

import importlib
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from . import toy

TESTS = Path(__file__).parents[1]
FILES = 'fuzz', 'tools/reports/test_recipe_report.py'
SLOW_IMPORTS = (
    'hypothesis',
    'scipy.interpolate',
    'mmpretrain.models',
    'mmpretrain.datasets',
    'mmseg.models',
    'mmseg.datasets',
)
HANG_SECONDS = 180  # without the end of a case
WRONG = ('lost', 'executed', 'wrong', 'crashed', 'hung')


class Properties:
    """pytest plugin that collects the properties and the number of cases of a short run."""

    def __init__(self):
        self.found: list[tuple[str, int]] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items = [item for item in items if hasattr(item.obj, 'examples')]
        self.found = [(item.nodeid, item.obj.examples) for item in items]


def fuzz(n: int, seed: int, log: Path) -> Counter:
    """Return how n cases ended: `right`, `refused`, `executed`, `wrong`, or `lost` in a process
    that `crashed` or `hung`."""
    toy.light()
    for module in SLOW_IMPORTS:  # once, for all processes
        importlib.import_module(module)
    collected, notes = log.with_name('properties'), log.with_name('notes')
    count, left = Counter(), n
    toy.start(_collect, collected, log=log).join()
    lines = [line.rsplit(' ', 1) for line in collected.read_text().splitlines()]
    weights = sum(int(cases) for _, cases in lines)
    for place, (node, cases) in enumerate(lines):
        # A property may have fewer different cases than its share; the last one has enough.
        share = max(1, left * int(cases) // weights) if place < len(lines) - 1 else left
        weights -= int(cases)
        if left:
            left -= _run(node, min(share, left), seed, notes, log, count)
    return count


def _collect(out: Path) -> None:
    collected = Properties()
    _pytest([*(str(TESTS / file) for file in FILES), '--collect-only'], [collected])
    shortest_first = sorted(collected.found, key=lambda each: each[1])
    out.write_text('\n'.join(f'{node} {cases}' for node, cases in shortest_first))


def _run(node: str, cases: int, seed: int, notes: Path, log: Path, count: Counter) -> int:
    """Run the cases of a property and count how they ended; return the number of cases."""
    notes.write_text('')
    process = toy.start(_try, node, cases, seed, notes, log=log)
    size, since = 0, time.monotonic()
    while process.is_alive():
        process.join(0.2)
        if (now := notes.stat().st_size) > size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > HANG_SECONDS:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            count['hung'] += 1
    ended = Counter(notes.read_text().split())
    if process.exitcode:
        count['crashed'] += process.exitcode != -signal.SIGKILL
        ended['lost'] = cases - ended.total()
    count.update(ended)
    words = ', '.join(f'{number} {word}' for word, number in sorted(ended.items()))
    print(f'{node.rpartition("::")[2]}: {words or "none"}', flush=True)
    return ended.total()


def _try(node: str, cases: int, seed: int, notes: Path) -> None:
    os.environ.update(BEIT_MM_FUZZ_CASES=str(cases), BEIT_MM_FUZZ_NOTES=str(notes))
    os._exit(int(_pytest([node, f'--hypothesis-seed={seed}', '-s'], [])))


def _pytest(arguments: list[str], plugins: list) -> int:
    os.chdir(TESTS.parent)
    fixed = ['-q', '-p', 'no:cacheprovider', f'--rootdir={TESTS.parent}']
    return pytest.main([*fixed, *arguments], plugins)


def main(n: int, seed: int, folder: Path) -> tuple[dict[str, int], str]:
    """Return the numbers of faults by their kind, and a note."""
    count = fuzz(n, seed, folder / 'log')
    tried = sum(count[word] for word in ('right', 'refused', 'executed', 'wrong', 'lost'))
    faults = {word: count[word] for word in WRONG} | {'not tried': max(0, n - tried)}
    return faults, f'{count["right"]} right, {count["refused"]} refused'

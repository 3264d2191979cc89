"""`--long` also runs the tests marked long; runs with one folder `--share` share those that the stack cannot change.

A process has one thread, since several tests run at once on few cores.
"""

import gc
import os

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope

from beit_mm import compat

compat.apply()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption('--long', action='store_true', help='also run the tests marked long')
    parser.addoption(
        '--share',
        type=Path,
        metavar='FOLDER',
        help='of runs with the same: a file marked any_stack is run by the first there',
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Those that train in forks come first: behind torch.export and torch.compile autograd has threads, which no fork survives.
    # What runs may share comes last, so that the faster one has something to take.
    items.sort(key=lambda item: (not hasattr(item.module, 'toy'), 'any_stack' in item.keywords))
    if not config.getoption('--long'):
        for item in items:
            if 'long' in item.keywords:
                item.add_marker(pytest.mark.skip(reason='takes minutes: runs with --long'))


@pytest.hookimpl(tryfirst=True)  # before fixtures are made
def pytest_runtest_setup(item: pytest.Item) -> None:
    folder = item.config.getoption('--share')
    if (
        folder
        and 'any_stack' in item.keywords
        and not claim(folder / item.path.relative_to(item.config.rootpath))
    ):
        pytest.skip('runs beside this on another stack')


@cache
def claim(place: Path) -> bool:
    """Whether this process is the first to ask."""
    try:
        place.mkdir(parents=True)
    except FileExistsError:
        return False
    return True


def restored() -> Iterator[None]:
    """A Runner leaves its default scope, where bare names mean other classes, and its logger, which may be silent."""
    before = {kind: dict(kind._instance_dict) for kind in (DefaultScope, MMLogger)}
    yield
    for kind, instances in before.items():
        kind._instance_dict.clear()
        kind._instance_dict.update(instances)


@pytest.fixture(autouse=True, scope='module')
def imports_are_no_garbage() -> None:
    """mmengine collects garbage whenever it makes a data set: what was imported need not be gone through each time."""
    gc.collect()
    gc.freeze()


nothing_left_behind = pytest.fixture(restored, autouse=True, name='nothing_left_behind')
by_a_module_neither = pytest.fixture(
    restored, autouse=True, scope='module', name='by_a_module_neither'
)


@pytest.fixture
def unformatted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Runner lays its config out five times, for seconds, and nobody reads it here."""
    for module in (
        'yapf.yapflib.yapf_api',
        'mmengine.config.config',
    ):  # one stack imports it late, the other early
        monkeypatch.setattr(f'{module}.FormatCode', lambda text, **_: (text, True), raising=False)

"""`--long` also runs the tests marked long; a process has one thread, since several tests run at once on few cores."""

import gc
import os

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported

from collections.abc import Iterator

import pytest
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope

from beit_mm import compat

compat.apply()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption('--long', action='store_true', help='also run the tests marked long')


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Those that train in forks come first: behind torch.export and torch.compile autograd has threads, which no fork survives.
    items.sort(key=lambda item: not hasattr(item.module, 'toy'))
    if not config.getoption('--long'):
        for item in items:
            if 'long' in item.keywords:
                item.add_marker(pytest.mark.skip(reason='takes minutes: runs with --long'))


def pytest_collection_finish() -> None:
    # mmengine collects garbage whenever it makes a data set: what was imported need not be gone through each time.
    gc.freeze()


def restored() -> Iterator[None]:
    """A Runner leaves its default scope, where bare names mean other classes, and its logger, which may be silent."""
    before = {kind: dict(kind._instance_dict) for kind in (DefaultScope, MMLogger)}
    yield
    for kind, instances in before.items():
        kind._instance_dict.clear()
        kind._instance_dict.update(instances)


nothing_left_behind = pytest.fixture(restored, autouse=True, name='nothing_left_behind')
by_a_module_neither = pytest.fixture(restored, autouse=True, scope='module', name='by_a_module_neither')


@pytest.fixture
def unformatted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Runner lays its config out five times, for seconds, and nobody reads it here."""
    for module in ('yapf.yapflib.yapf_api', 'mmengine.config.config'):  # one stack imports it late, the other early
        monkeypatch.setattr(f'{module}.FormatCode', lambda text, **_: (text, True), raising=False)

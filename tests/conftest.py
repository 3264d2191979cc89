"""Options of the test suite, and fixtures that isolate tests from each other.

`--long` also runs the tests marked long. Runs that get the same folder as `--share` divide the test
files marked any_stack among them. Each process has one thread, since several run at once on few cores.
"""

import gc
import os
import weakref

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from shapes import draw as shapes
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from beit_mm import compat

compat.apply()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption('--long', action='store_true', help='also run the tests marked long')
    help_text = 'each file marked any_stack runs once in all runs with the same folder'
    parser.addoption('--share', type=Path, metavar='FOLDER', help=help_text)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Tests that train in forks run first: torch.export and torch.compile start threads of autograd,
    # which do not survive a fork. Shared files run last, so that the faster run takes more of them.
    items.sort(key=lambda item: (not hasattr(item.module, 'toy'), 'any_stack' in item.keywords))
    if not config.getoption('--long'):
        for item in items:
            if 'long' in item.keywords:
                item.add_marker(pytest.mark.skip(reason='takes minutes: runs with --long'))


@pytest.hookimpl(tryfirst=True)  # before fixtures are made
def pytest_runtest_setup(item: pytest.Item) -> None:
    folder = item.config.getoption('--share')
    if not folder or 'any_stack' not in item.keywords:
        return
    if not claim(folder / item.path.relative_to(item.config.rootpath)):
        pytest.skip('runs at the same time with another stack')


@cache
def claim(place: Path) -> bool:
    """Return whether this process is the first to ask for a place."""
    try:
        place.mkdir(parents=True)
    except FileExistsError:
        return False
    return True


def restore_instances() -> Iterator[None]:
    """Restore the default scope and the loggers, which a Runner changes for the whole process."""
    before = {kind: dict(kind._instance_dict) for kind in (DefaultScope, MMLogger)}
    yield
    for kind, instances in before.items():
        kind._instance_dict.clear()
        kind._instance_dict.update(instances)


restore_after_test = pytest.fixture(restore_instances, autouse=True, name='restore_after_test')
restore_after_module = pytest.fixture(
    restore_instances, autouse=True, scope='module', name='restore_after_module'
)


_LOADERS: weakref.WeakSet[_MultiProcessingDataLoaderIter] = weakref.WeakSet()
_INIT, _TRAIN = _MultiProcessingDataLoaderIter.__init__, Runner.train


def init_and_note(loader: _MultiProcessingDataLoaderIter, *args, **kwargs) -> None:
    _LOADERS.add(loader)
    _INIT(loader, *args, **kwargs)


def train_and_end_workers(runner: Runner) -> torch.nn.Module:
    """Train, then end the workers of data loaders.

    A Runner is in a circle of references. If the garbage collector finds the loader in it, the
    queues are closed first, and each worker is waited for five seconds.
    """
    try:
        return _TRAIN(runner)
    finally:
        for loader in _LOADERS:
            loader._shutdown_workers()


_MultiProcessingDataLoaderIter.__init__, Runner.train = init_and_note, train_and_end_workers


@pytest.fixture(autouse=True, scope='module')
def freeze_imports() -> None:
    """Exclude imports from garbage collection, which mmengine starts for each data set."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def unformatted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the formatting of configs by yapf, which takes a Runner seconds."""
    # One stack imports it late, the other early.
    for module in ('yapf.yapflib.yapf_api', 'mmengine.config.config'):
        monkeypatch.setattr(f'{module}.FormatCode', lambda text, **_: (text, True), raising=False)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What mmengine logs."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.fixture(scope='session')
def few_shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images of Shapes for training and four for validation, in both layouts."""
    out = tmp_path_factory.mktemp('few') / 'shapes'
    sizes = dict(segmentation_train=12, segmentation_val=4, labels=(12,))
    shapes.draw_dataset(out, train=12, val=4, size=64, jobs=1, **sizes)
    return out

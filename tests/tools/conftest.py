"""A small data set for the tools that read one."""

import shutil
from pathlib import Path

import pytest
from shapes import draw as shapes


@pytest.fixture(scope='session')
def drawn(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp('drawn') / 'shapes'
    sizes = dict(segmentation_train=20, segmentation_val=12, labels=(20,))
    shapes.draw_dataset(out, 20, 10, size=32, jobs=1, **sizes)
    return out


@pytest.fixture
def data(drawn, tmp_path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(drawn, tmp_path / 'shapes'))

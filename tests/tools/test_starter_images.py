"""What tools/new_config.py measures of images."""

import tracemalloc

import numpy as np
import pytest
from starter import images

pytestmark = pytest.mark.any_stack


def test_mean_and_deviation_of_large_images_need_little_memory(tmp_path):
    """Five bands of 10 million pixels would take gigabytes in float64."""
    np.save(tmp_path / '0.npy', np.zeros((2000, 5000, 5), np.uint8))
    tracemalloc.start()
    images._measure_image(tmp_path / '0.npy')
    assert tracemalloc.get_traced_memory()[1] < 200e6  # the file has 50 MB
    tracemalloc.stop()

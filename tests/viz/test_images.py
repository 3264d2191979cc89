"""Drawings on images change the pixels that they should, and no others."""

import numpy as np
import pytest

from beit_mm.viz import images

pytestmark = pytest.mark.any_stack

IMAGE = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)


def test_outline_changes_only_the_border_of_masked_patches():
    mask = np.zeros((3, 4), bool)
    mask[1, 1:3] = True  # rows 4 … 7, columns 4 … 11
    drawn = images.outline_masked(IMAGE, mask)
    border = np.zeros((12, 16), bool)
    border[4:8, 4:12] = True
    border[5:7, 5:11] = False
    assert np.array_equal((drawn != IMAGE).any(-1), border)
    assert (drawn[border] == images.MASKED_COLOR).all()


def test_overlay_mixes_class_colors_and_leaves_unlabelled_pixels():
    labels = np.zeros((12, 16), np.uint8)
    labels[0, 0], labels[0, 1] = 1, 255
    drawn = images.overlay_classes(IMAGE, labels, [[0, 0, 0], [255, 0, 100]], opacity=1.0)
    assert drawn[0, 0].tolist() == [255, 0, 100] and not drawn[1:].any()
    assert np.array_equal(drawn[0, 1], IMAGE[0, 1])


def test_errors_are_drawn_in_a_color_far_from_the_palette():
    color = images.pick_error_color([(255, 160, 20), (250, 0, 250)])
    assert tuple(color) not in ((255, 140, 0), (255, 0, 255), (255, 255, 0))
    wrong, labeled = np.array([[False, True], [False, False]]), np.array([[1, 1], [0, 1]])
    image = np.full((2, 2, 3), 100, np.uint8)
    drawn = images.overlay_errors(image, wrong, labeled, (9, 200, 0))
    assert drawn[1, 0].tolist() == [0, 0, 0]
    assert drawn[0, 0].tolist() == drawn[1, 1].tolist() == [114] * 3
    assert drawn[0, 1].tolist() == [round(0.2 * 114 + 0.8 * c) for c in (9, 200, 0)]

"""Drawings on images change the pixels that they should, and no others."""

import cv2
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


def test_outlines_separate_classes_and_leave_unlabeled_pixels():
    labels = np.zeros((300, 300), np.uint8)
    labels[:, 100:], labels[200:] = 1, 255
    image = np.full((300, 300, 3), 100, np.uint8)
    palette = [(200, 0, 0), (0, 0, 200)]
    drawn = images.outline_classes(image, labels, palette)
    assert [drawn[9, column].tolist() for column in (99, 100)] == list(map(list, palette))
    assert drawn[9, 9].tolist() == [145, 55, 55] and drawn[9, 200].tolist() == [55, 55, 145]
    assert (drawn[200:] == 100).all()
    assert images.outline_classes(image[:64, :64], labels[:64, :64], palette).shape == (256, 256, 3)


def lab(colors) -> np.ndarray:
    return cv2.cvtColor(np.float32([colors]) / 255, cv2.COLOR_RGB2LAB)[0]


@pytest.mark.parametrize('count', [1, 11, 150])
def test_the_error_color_differs_from_every_class_and_from_grays(count):
    palette = np.random.default_rng(count).integers(0, 256, (count, 3))
    grays = [[level] * 3 for level in (0, 64, 128, 191, 255)]
    color = images.pick_error_color(palette)
    nearest = np.linalg.norm(lab([*palette, *grays]) - lab([color]), axis=1).min()
    assert nearest >= 25  # 2 is just visible


def test_errors_are_drawn_over_gray():
    wrong, labeled = np.array([[False, True], [False, False]]), np.array([[1, 1], [0, 1]])
    image = np.full((2, 2, 3), 100, np.uint8)
    drawn = images.overlay_errors(image, wrong, labeled.astype(bool), (9, 200, 0))[::128, ::128]
    assert drawn[1, 0].tolist() == [0, 0, 0]
    assert drawn[0, 0].tolist() == drawn[1, 1].tolist() == [114] * 3
    assert drawn[0, 1].tolist() == [round(0.2 * 114 + 0.8 * c) for c in (9, 200, 0)]

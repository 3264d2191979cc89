"""Colour jitter as one matrix: what it does to a pixel is linear, so it is done to the few pixels of the views, behind the crop."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from ..registry import TRANSFORMS
from ..utils.arguments import check_numbers

GRAY = np.array([0.114, 0.587, 0.299])  # of blue, green, red
BRIGHTNESS, CONTRAST, SATURATION = range(3)
CUT = 0.49  # PIL cuts off fractions behind each step: half a level on average; less, so that a whole number stays what it is


def color_matrix(
    mean: Sequence[float], order: Sequence[int], factors: dict[int, float]
) -> np.ndarray:
    """[3, 4] of BGR: brightness, contrast and saturation by their `factors` (torchvision's meaning), one after the other.

    `mean`: colour of the whole image, BGR; contrast is changed around its gray.
    """
    matrix = np.eye(3, 4)
    for step in order:
        if step not in factors:
            continue
        factor, gray = factors[step], GRAY @ matrix  # of each pixel
        if step == CONTRAST:
            gray = np.array([0, 0, 0, math.floor(gray @ [*mean[:3], 1] + 0.5)])  # of all
        if step == BRIGHTNESS:
            gray = np.zeros(4)
        matrix = factor * matrix + (1 - factor) * gray
        matrix[:, 3] -= CUT
    return matrix


@TRANSFORMS.register_module()
class ColorJitter(BaseTransform):
    """Draws what mmpretrain's ColorJitter of the same arguments draws, and leaves it to `TwoViews` to do it to the views.

    Adds `color_matrix`, [3, 4]. It is not the same to the bit: the official order jitters the whole image, cuts it to
    0 … 255 after each step, and resizes what is left.

    Args:
        brightness, contrast, saturation: 0 leaves it; else the factor is uniform in 1 − x … 1 + x, not below 0.

    Raises ValueError for one that is no number, or below 0, and for images that are not RGB.
    """

    def __init__(self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0):
        check_numbers(0, brightness=brightness, contrast=contrast, saturation=saturation)
        self.brightness, self.contrast, self.saturation = brightness, contrast, saturation

    def transform(self, results: dict) -> dict:
        if results['img'].shape[2:] != (3,):
            raise ValueError(
                f'ColorJitter is defined for RGB, and {results.get("img_path")} has the shape {results["img"].shape}: remove it '
                'from the pipeline'
            )
        order, factors = np.random.permutation(4), {}
        for step, strength in enumerate((self.brightness, self.contrast, self.saturation)):
            if strength:
                factors[step] = np.random.uniform(max(0, 1 - strength), 1 + strength)
        results['color_matrix'] = color_matrix(cv2.mean(results['img']), order, factors)
        return results

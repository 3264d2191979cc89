"""Color jitter as one matrix, applied to the small views instead of the whole image."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from ..registry import TRANSFORMS
from ..utils.arguments import check_numbers

GRAY_WEIGHTS = np.array([0.114, 0.587, 0.299])  # of blue, green, red
BRIGHTNESS, CONTRAST, SATURATION = range(3)
TRUNCATION = 0.49  # of fractions by PIL after each step; below 0.5, so that integers stay the same


def color_matrix(
    mean: Sequence[float], order: Sequence[int], factors: dict[int, float]
) -> np.ndarray:
    """Return the BGR matrix [3, 4] of torchvision's brightness, contrast and saturation.

    Args:
        mean: mean color of the whole image, BGR. Contrast is changed around its gray level.
        order: steps in their order; steps without a factor are skipped.
    """
    matrix = np.eye(3, 4)
    for step in order:
        if step not in factors:
            continue
        gray = GRAY_WEIGHTS @ matrix  # of each pixel, for saturation
        if step == BRIGHTNESS:
            gray = np.zeros(4)
        elif step == CONTRAST:
            gray = np.array([0, 0, 0, math.floor(gray @ [*mean[:3], 1] + 0.5)])
        matrix = factors[step] * matrix + (1 - factors[step]) * gray
        matrix[:, 3] -= TRUNCATION
    return matrix


@TRANSFORMS.register_module()
class ColorJitter(BaseTransform):
    """Transform that draws the color jitter of an image, which `TwoViews` applies to its views.

    Adds `color_matrix`, f64 [3, 4]. The random draws equal those of mmpretrain's ColorJitter. The
    pixels differ slightly, because the official code clips the whole image after each step. A
    factor is uniform in 1 ± `brightness`, `contrast` or `saturation`, and at least 0.
    """

    def __init__(self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0):
        check_numbers(0, brightness=brightness, contrast=contrast, saturation=saturation)
        self.brightness, self.contrast, self.saturation = brightness, contrast, saturation

    def transform(self, results: dict) -> dict:
        if (shape := results['img'].shape)[2:] != (3,):
            path, expected = results.get('img_path'), 'an RGB image. Remove ColorJitter'
            raise ValueError(f'{path} has the shape {shape}, expected {expected}')
        order = np.random.permutation(4)  # with hue, which the official code leaves unchanged
        factors = {}
        for step, strength in enumerate((self.brightness, self.contrast, self.saturation)):
            if strength:
                factors[step] = np.random.uniform(max(0, 1 - strength), 1 + strength)
        results['color_matrix'] = color_matrix(cv2.mean(results['img']), order, factors)
        return results

"""Image files as the inputs of a model."""

from pathlib import Path

import cv2
import mmcv
import numpy as np
import torch
from torch import Tensor

from ..data import image_files
from ..data.image_files import BadSample


def read_model_image(path: str | Path, channels: int = 3) -> np.ndarray:
    """Read an image file for a model: uint8 [H, W, channels], RGB if there are three.

    Raises FileNotFoundError; BadSample, a ValueError that names the file, if it cannot be read or
    has another number of channels.
    """
    check_file(path)
    color_type = 'color' if channels == 3 else 'unchanged'
    image = np.atleast_3d(image_files.read_image(str(path), color_type)[0])
    if image.shape[2] != channels:
        raise BadSample(f'{path} has {image.shape[2]} channels, expected {channels} for this model')
    return np.ascontiguousarray(image[..., ::-1] if channels == 3 else image)


def check_file(path: str | Path) -> None:
    """Raise FileNotFoundError if there is no file at a path, unless it is a URL."""
    if '://' not in str(path) and not Path(path).is_file():
        raise FileNotFoundError(f'{path} not found: expected an image file')


def to_rgb(image: np.ndarray, bands: list[int] | None = None) -> np.ndarray:
    """Return three channels of an image [H, W, C] as red, green and blue.

    `bands` are their numbers, counted from 1 (default: the first three, or a single one as gray).
    Raises ValueError for bands that the image does not have.
    """
    channels = image.shape[2]
    chosen = bands or ([1, 2, 3] if channels >= 3 else [1, 1, 1])
    if len(chosen) != 3 or not all(1 <= band <= channels for band in chosen):
        numbers = ' '.join(map(str, chosen))
        raise ValueError(f'--bands {numbers}: expected three numbers from 1 to {channels}')
    return np.ascontiguousarray(image[..., [band - 1 for band in chosen]])


def fit_size(size: tuple[int, int], short_side: int, multiple: int) -> tuple[int, int]:
    """Return (height, width) in about the proportions of `size`, as multiples of `multiple`.

    The shorter side is near `short_side`.
    """
    scale = short_side / min(size)
    return tuple(max(round(side * scale / multiple), 1) * multiple for side in size)


def resize(image: np.ndarray, size: tuple[int, int], interpolation: str = 'bicubic') -> np.ndarray:
    """Resize an image [H, W, C] to `size` (height, width) by Pillow, channel by channel."""
    if image.shape[:2] == tuple(size):
        return image
    options = dict(size=size[::-1], interpolation=interpolation, backend='pillow')
    return np.stack([mmcv.imresize(channel, **options) for channel in cv2.split(image)], -1)


def normalize(image: np.ndarray, normalization: dict[str, list[float]]) -> Tensor:
    """Convert uint8 [H, W, C] to the input of a backbone, f32 [1, C, H, W]."""
    mean, std = (torch.tensor(normalization[name]).view(-1, 1, 1) for name in ('mean', 'std'))
    return ((to_tensor(image) - mean) / std)[None]


def to_tensor(image: np.ndarray) -> Tensor:
    """Convert uint8 [H, W, C] to f32 [C, H, W] in 0 … 255."""
    return torch.from_numpy(image.transpose(2, 0, 1).copy()).float()

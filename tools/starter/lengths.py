"""Choose batch size, length and learning rate for the device and the number of images."""

import math
import os

from .models import Device

# GiB per image with automatic mixed precision, by estimate from docs/performance.md: base, large.
GIB_PER_IMAGE = dict(
    tokenizer=(1.0, 1.0), pretrain=(0.13, 0.35), classification=(0.11, 0.3), segmentation=(1.8, 4.5)
)
MAX_BATCH = dict(tokenizer=64, pretrain=256, classification=256, segmentation=16)
SMALL_BATCH = dict(tokenizer=8, pretrain=32, classification=32, segmentation=16)
UPDATES_PER_PASS, MIN_BATCH = 16, 8  # for small data sets
FIXED_GIB = 4  # weights, optimizer and the libraries


def choose_batch_size(task: str, size: str, device: Device, num_images: int) -> int:
    """Return the largest power of two that fits, with some updates per pass over few images."""
    if size == 'small':
        batch = SMALL_BATCH[task]
    elif device.gib is None:
        batch = 8 if task == 'classification' else 2
    else:
        gib = GIB_PER_IMAGE[task][size == 'large']
        batch = min(max((device.gib - FIXED_GIB) / gib, 1), MAX_BATCH[task])
    batch = min(batch, max(num_images // UPDATES_PER_PASS, MIN_BATCH), num_images)
    return 2 ** int(math.log2(max(batch, 1)))


def choose_epochs(task: str, num_images: int) -> int:
    """Return the epochs of a full-size run: more for fewer images."""
    if task == 'pretrain':
        return _clip(20_000_000 / num_images, 300, 1600)
    return _clip(200_000 / num_images, 10, 100)


def choose_iterations(task: str, size: str, num_images: int, batch_size: int) -> int:
    """Return the number of iterations of a run that counts them, in steps of ten."""
    if task == 'tokenizer':
        iters = 1400 if size == 'small' else _clip(num_images * 50 / batch_size, 20_000, 500_000)
    elif task == 'pretrain':
        iters = _clip(num_images * 10 / batch_size, 1250, 10_000)
    elif task == 'classification':
        iters = _clip(num_images * 20 / batch_size, 100, 2_000)
    elif size == 'small':
        iters = _clip(num_images * 10 / batch_size, 110, 2_000)
    else:
        iters = _clip(num_images * 50 / batch_size, 4_000, 160_000)
    return -(-iters // 10) * 10


def choose_codes(size: str, num_images: int) -> int:
    if size == 'small':
        return 512
    return 8192 if num_images >= 500_000 else 1024


def choose_workers(device: Device) -> int:
    cores = len(os.sched_getaffinity(0))
    return min(cores, 8) if device.gib else min(max(cores - 1, 1), 2)


def _clip(value: float, low: int, high: int) -> int:
    return int(min(max(value, low), high))

"""Images of a folder: their names, their splits, their channels and sizes."""

import os
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from beit_mm.data.image_files import SUFFIXES, BadSample, read_image
from beit_mm.utils.arguments import join_names

TRAIN, VAL = ('train', 'training'), ('val', 'validation', 'valid')
HELD_OUT_SHARE, MAX_HELD_OUT = 0.1, 1000
SAMPLE_SIZE = 100  # images that are read


@dataclass
class Split:
    """Images of one split; `names` are relative to `folder`, and listed in `list_file` if given."""

    folder: Path
    names: list[str]
    list_file: Path | None = None


@dataclass
class Statistics:
    """Channels and sizes of a sample of images; mean and standard deviation per channel."""

    channels: int
    height: int
    width: int
    mean: list[float]
    std: list[float]


def list_images(folder: Path) -> list[str]:
    """Return the relative paths of the images at any depth, sorted."""
    found = []
    for place, _, files in os.walk(folder, followlinks=True):
        names = (name for name in files if not name.startswith('.'))
        found += [os.path.join(place, name) for name in names if name.lower().endswith(SUFFIXES)]
    return sorted(os.path.relpath(path, folder) for path in found)


def find_splits(folder: Path) -> dict[str, Path]:
    """Return split → sub-folder if a folder has a sub-folder for training and one for validation."""
    found = {}
    for split, names in dict(train=TRAIN, val=VAL).items():
        folders = (folder / name for name in names)
        if existing := next(filter(Path.is_dir, folders), None):
            found[split] = existing
    return found if len(found) == 2 else {}


def split_images(folder: Path, out: Path) -> dict[str, Split]:
    """Return the splits of a folder; images without split folders get lists beside `out`.

    Raises ValueError if a split has no image.
    """
    if folders := find_splits(folder):
        splits = {name: Split(path, list_images(path)) for name, path in folders.items()}
    else:
        names = list_images(folder)
        held_out = set(hold_out(names))
        splits = dict(
            train=Split(folder, [name for name in names if name not in held_out]),
            val=Split(folder, sorted(held_out)),
        )
        for name, split in splits.items():
            split.list_file = out.with_name(f'{out.stem}_{name}.txt')
    for split in splits.values():
        check_not_empty(split.folder, split.names)
    return splits


def check_not_empty(folder: Path, names: list[str]) -> None:
    if not names:
        suffixes = ', '.join(SUFFIXES)
        raise ValueError(f'{folder} has no image for a split: expected at least 2 of {suffixes}')


def hold_out(names: list[str]) -> list[str]:
    """Return the images that are kept for validation; always the same for the same names."""
    count = min(max(round(len(names) * HELD_OUT_SHARE), 1), MAX_HELD_OUT, len(names) - 1)
    return random.Random(0).sample(sorted(names), max(count, 0))


def write_list(path: Path | None, lines: list[str]) -> None:
    if path:
        path.write_text('\n'.join(lines) + '\n', encoding='utf-8')


def measure(folder: Path, names: list[str]) -> Statistics:
    """Read a sample of images.

    Raises ValueError if images have different numbers of channels, or none can be read.
    """
    names = random.Random(0).sample(names, min(SAMPLE_SIZE, len(names)))
    shapes, sums, counts = {}, {}, 0
    for name in names:
        try:
            image, _ = read_image(str(folder / name), 'unchanged')
        except BadSample:
            try:
                image, _ = read_image(str(folder / name), 'color')
            except BadSample as error:
                print(f'remark: {error}')
                continue
        image = image[..., None] if image.ndim == 2 else image
        shapes.setdefault(image.shape[2], []).append(image.shape[:2])
        pixels = image.reshape(-1, image.shape[2]).astype(np.float64)
        sums.setdefault(image.shape[2], []).append((pixels.mean(0), (pixels**2).mean(0)))
        counts += 1
    if not counts:
        raise ValueError(f'none of {len(names)} images in {folder} can be read')
    # Gray images and images with alpha beside RGB images are read as RGB.
    is_color = set(shapes) <= {1, 2, 3, 4} and (set(shapes) & {1, 2, 3} or _is_alpha(names))
    if len(shapes) > 1 and not is_color:
        numbers = join_names(sorted(map(str, shapes)))
        raise ValueError(
            f'images in {folder} have {numbers} channels: expected the same number in all'
        )
    sizes = np.median([size for group in shapes.values() for size in group], axis=0).astype(int)
    channels = 3 if is_color else next(iter(shapes))
    if is_color:
        return Statistics(3, *map(int, sizes), [], [])
    mean, square = np.mean(sums[channels], axis=0)
    variance = square - mean**2
    std = np.sqrt(np.where(variance > 1e-6 * square, variance, 1))  # a band may be constant
    mean, std = ([float(f'{value:.4g}') for value in values] for values in (mean, std))
    return Statistics(channels, *map(int, sizes), mean, std)


def _is_alpha(names: list[str]) -> bool:
    """Return whether four channels are RGB and alpha, which the format of a file tells."""
    return all(name.lower().endswith(('.png', '.webp')) for name in names)

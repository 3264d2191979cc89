"""Images of a folder: their names, their splits, their channels and sizes."""

import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from image_folders.listing import list_images

from beit_mm.data.image_files import SUFFIXES, BadSample, read_image
from beit_mm.utils.arguments import join_names

TRAIN, VAL = ('train', 'training'), ('val', 'validation', 'valid')
HELD_OUT_SHARE, MAX_HELD_OUT = 0.1, 1000
SAMPLE_SIZE = 200  # images that are read of the training set
MEASURED_SIDE = 1000  # pixels per side that mean and deviation are computed of


@dataclass
class Split:
    """Images of one split, the lines of `list_file` if it is given.

    Args:
        entries: paths of the images, relative to `folder`.
    """

    folder: Path
    entries: list[str]
    list_file: Path | None = None

    @property
    def names(self) -> list[str]:
        """Paths of the images, relative to `folder`."""
        return self.entries

    def exclude(self, unreadable: set[Path], list_file: Path) -> None:
        """Remove images; the others are then listed in `list_file`."""
        pairs = zip(self.entries, self.names, strict=True)
        kept = [entry for entry, name in pairs if self.folder / name not in unreadable]
        if len(kept) < len(self.entries):
            self.entries, self.list_file = kept, self.list_file or list_file


@dataclass
class Statistics:
    """Sizes and values of a sample of images.

    Args:
        channels: 3 for gray images and images with alpha too, which are read as RGB.
        mean, std: per channel; empty for RGB.
    """

    channels: int
    height: int
    width: int
    mean: list[float]
    std: list[float]


def find_splits(folder: Path) -> dict[str, Path]:
    """Return split → sub-folder if there is one for training and one for validation."""
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
        splits = {name: Split(path, list_images(path, SUFFIXES)) for name, path in folders.items()}
    else:
        names = list_images(folder, SUFFIXES)
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


def measure(train: Split, val: Split) -> tuple[Statistics, set[Path]]:
    """Read a sample of the training images and all validation images.

    Returns what they have in common, and the images that cannot be read. Raises ValueError if
    images have different numbers of channels, or none can be read.
    """
    names = random.Random(0).sample(train.names, min(SAMPLE_SIZE, len(train.names)))
    paths = [train.folder / name for name in names] + [val.folder / name for name in val.names]
    with ProcessPoolExecutor() as pool:
        found = dict(zip(paths, pool.map(_measure_image, paths, chunksize=8), strict=True))
    faults = {str(path): result for path, result in found.items() if isinstance(result, str)}
    for text in faults.values():
        print(f'skipped: {text}')
    images = [result for result in found.values() if not isinstance(result, str)]
    if not images:
        raise ValueError(f'none of {len(paths)} images in {train.folder} can be read')
    counts = {len(mean) for _, mean, _ in images}
    # Gray images and images with alpha beside RGB images are read as RGB.
    is_color = counts <= {1, 2, 3, 4} and (counts & {1, 2, 3} or _has_alpha(names))
    if len(counts) > 1 and not is_color:
        raise ValueError(
            f'images in {train.folder} have {join_names(sorted(map(str, counts)))} channels: '
            'expected the same number in all'
        )
    height, width = map(int, np.median([size for size, _, _ in images], axis=0))
    unreadable = set(map(Path, faults))
    if is_color:
        return Statistics(3, height, width, [], []), unreadable
    mean = np.mean([mean for _, mean, _ in images], axis=0)
    square = np.mean([square for _, _, square in images], axis=0)
    variance = square - mean**2
    std = np.sqrt(np.where(variance > 1e-6 * square, variance, 1))  # a band may be constant
    mean, std = ([float(f'{value:.4g}') for value in values] for values in (mean, std))
    return Statistics(len(mean), height, width, mean, std), unreadable


def _measure_image(path: Path) -> tuple[tuple[int, int], np.ndarray, np.ndarray] | str:
    """Return the size, mean and mean square per channel of an image, or why it cannot be read."""
    try:
        image, _ = read_image(str(path), 'unchanged')
    except BadSample:
        try:
            image, _ = read_image(str(path), 'color')
        except BadSample as error:
            return str(error)
    step = max(image.shape[:2]) // MEASURED_SIDE + 1  # a photograph has too many pixels for float64
    pixels = np.atleast_3d(image)[::step, ::step].astype(np.float64)
    return image.shape[:2], pixels.mean((0, 1)), (pixels**2).mean((0, 1))


def _has_alpha(names: list[str]) -> bool:
    """Return whether four channels are RGB and alpha, which the format of a file tells."""
    return all(name.lower().endswith(('.png', '.webp')) for name in names)

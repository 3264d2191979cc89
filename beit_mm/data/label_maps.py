"""Label maps: reading, conversion to classes, and which of their values a model cannot learn."""

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

import numpy as np

from ..utils.arguments import join_names
from .class_numbers import Message
from .image_files import (
    MAX_PIXELS,
    BadSample,
    apply_orientation,
    exif_orientation,
    open_image,
    read_bytes,
    read_shape,
)

IGNORE = 255  # value of pixels without a label, in mmpretrain and mmseg
NUMBER_MODES = ('1', 'L', 'P', 'I', 'I;16', 'I;16B', 'I;16L')  # Pillow's modes with one channel
MANY_IGNORED = 0.95  # share of the pixels
ADVICE = 'Set reduce_zero_label of the data set, or the values 0 and 255 (docs/datasets.md)'


def read_labels(
    path: str,
    shown: tuple[int, int],
    orientation: int = 1,
    max_pixels: int = MAX_PIXELS,
    backend_args: dict | None = None,
) -> np.ndarray:
    """Read the values of a label map, [H, W], turned like its image. Raises BadSample.

    `shown` is (height, width) of the image after its EXIF `orientation` was applied. The size of a
    label map without an orientation tells whether it is already turned. If it cannot tell, the
    label map is refused.
    """
    with open_image(path, read_bytes(path, backend_args), max_pixels) as image:
        if image.mode not in NUMBER_MODES:
            expected = 'expected a class number per pixel (mode L or P)'
            raise BadSample(f'{path} has colors (mode {image.mode}), {expected}')
        own_orientation = exif_orientation(image)
        labels = apply_orientation(np.asarray(image), own_orientation)

    if orientation != 1 and own_orientation == 1:
        stored = shown[::-1] if orientation >= 5 else shown
        if stored == shown:
            given = f'{path}: its image has the EXIF orientation {orientation}, and its size'
            advice = 'Turn the pixels of the image and remove its tag'
            raise BadSample(f'{given} does not tell whether it is turned too. {advice}')
        if labels.shape == stored:
            labels = apply_orientation(labels, orientation)
    if labels.shape != tuple(shown):
        sizes = [f'{width}×{height}' for height, width in (labels.shape, shown)]
        raise BadSample(f'{path} has {sizes[0]} pixels, expected {sizes[1]} as in its image')
    return labels


def to_classes(
    path: str,
    labels: np.ndarray,
    num_classes: int | None,
    reduce_zero_label: bool,
    label_map: dict[int, int] | None = None,
) -> np.ndarray:
    """Convert values to classes, uint8 [H, W], as mmseg's LoadAnnotations. Raises BadSample."""
    table, expected = class_of_values(num_classes, reduce_zero_label, label_map)
    used = count_values(path, labels) > 0
    if wrong := np.flatnonzero(used & (table < 0)).tolist():
        raise BadSample(f'{path} has the value {join_names(wrong, 5)}, {expected}')
    return table.astype(np.uint8)[labels.astype(np.uint8)]


def class_of_values(
    num_classes: int | None, reduce_zero_label: bool, label_map: dict[int, int] | None = None
) -> tuple[np.ndarray, str]:
    """Return the class of each value 0 … 255, and a text that says which values are expected.

    The class is 255 if the value is ignored and -1 if the value has no class.

    Args:
        num_classes: None accepts every value.
        reduce_zero_label: 0 is unlabeled, and 1 is the first class.
        label_map: from the classes of the data set to those that the config chose.
    """
    table, first = np.arange(256), int(reduce_zero_label)
    if reduce_zero_label:
        table = np.where(np.isin(table, (0, IGNORE)), IGNORE, table - 1)
    known = label_map or range(IGNORE - first if num_classes is None else num_classes)
    is_known = np.isin(table, [*known, IGNORE])
    if label_map:
        table = np.array([label_map.get(value, value) % 256 for value in table.tolist()])
    ignored = f'{"0 or 255" if first else 255} for ignored pixels'
    expected = f'expected {first} … {first + len(known) - 1} for classes, {ignored}'
    return np.where(is_known, table, -1), f'{expected} (reduce_zero_label={reduce_zero_label})'


def count_values(path: str, labels: np.ndarray) -> np.ndarray:
    """Return the number of pixels with each value 0 … 255. Raises BadSample for other values."""
    for value in (int(labels.min()), int(labels.max())):
        if not 0 <= value <= 255:
            raise BadSample(f'{path} has the value {value}, expected 0 … 255')
    return np.bincount(labels.ravel(), minlength=256)


@dataclass
class LabelMaps:
    """Values of the label maps that were read."""

    total: int  # label maps in the data set
    counts: dict[str, np.ndarray] = field(default_factory=dict)  # path → number of pixels by value
    faults: dict[str, str] = field(default_factory=dict)  # path of each unreadable map → message

    @property
    def read(self) -> int:
        return len(self.counts) + len(self.faults)

    def __str__(self) -> str:
        sample = f'a sample of {self.read} of ' if self.read < self.total else ''
        return f'{sample}{self.total} label map{"s" if self.total > 1 else ""}'


def read_label_maps(
    pairs: Iterable[tuple[str | Path, str | Path]], total: int, seconds: float = inf
) -> LabelMaps:
    """Read the label maps of pairs (image, label map) until `seconds` have passed."""
    found, end = LabelMaps(total), time.monotonic() + seconds
    for image, path in pairs:
        path = str(path)
        try:
            shape = read_shape(image) or read_shape(path) or ((0, 0), 1)
            found.counts[path] = count_values(path, read_labels(path, *shape))
        except BadSample as error:
            found.faults[path] = str(error)
        if time.monotonic() > end:
            break
    return found


def check_label_maps(
    maps: LabelMaps,
    classes: Sequence[str],
    reduce_zero_label: bool,
    label_map: dict[int, int] | None = None,
    training: bool = True,
    skip_bad: bool = False,
) -> Iterator[Message]:
    """Yield the faults of label maps for a model with these classes, in the order of the labels.

    With `training`, also report what makes learning hard, such as a class that does not occur. With
    `skip_bad`, label maps that cannot be used are no error.
    """
    for text in group_messages(maps.faults):
        yield text, not skip_bad
    if not maps.counts:
        return
    table, expected = class_of_values(len(classes), reduce_zero_label, label_map)
    pixels = sum(maps.counts.values())
    values = np.flatnonzero(pixels).tolist()
    found = set(table[values].tolist()) - {-1, IGNORE}
    ignored = [value for value in values if table[value] == IGNORE]
    unknown = [value for value in values if table[value] < 0]
    if unknown:
        paths = sorted(path for path, counts in maps.counts.items() if counts[unknown].any())
        where = f'{len(paths)} of {maps}, e.g. {paths[0]}'
        yield f'values {join_names(unknown)} in {where}: {expected}. {ADVICE}', not skip_bad
    elif len(found) < 2:
        only = f'{classes[found.pop()]!r} is the only class' if found else 'no pixel has a class'
        text = f'{only} in {maps}, so there is nothing to learn. The values are '
        text += f'{join_names(values)} with reduce_zero_label={reduce_zero_label}. {ADVICE}'
        yield text, maps.read == maps.total or bool(ignored)
        return
    if not training:
        return

    absent = [repr(name) for number, name in enumerate(classes) if number not in found]
    if absent and not unknown:
        yield f'no pixel of {maps} has these classes: {join_names(absent)}', False
    share = pixels[ignored].sum() / pixels.sum()
    if share > MANY_IGNORED:
        yield f'{share:.1%} of the pixels of {maps} are ignored: {join_names(ignored)}', False
    is_used = ~np.isin(np.arange(256), ignored)
    if empty := sorted(path for path, counts in maps.counts.items() if not counts[is_used].any()):
        yield f'{len(empty)} of {maps} have no pixel with a class, e.g. {empty[0]}', False


def group_messages(faults: dict[str, str]) -> list[str]:
    """Return one line for all faults (path → message) that differ only in path and numbers."""
    groups = {}
    for path, message in sorted(faults.items()):
        kind = re.sub(r'\d+', '0', message.replace(path, ''))
        groups.setdefault(kind, []).append(message)
    return [
        first + (f' (and {len(others)} more like it)' if others else '')
        for first, *others in groups.values()
    ]

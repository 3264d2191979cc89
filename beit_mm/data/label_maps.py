"""Values of many label maps, and which of them a model cannot learn."""

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

import numpy as np
from PIL import Image

from ..utils.arguments import join_names
from .class_numbers import Message
from .image_files import BadSample, exif_orientation
from .label_files import IGNORE, class_of_values, count_values, expected_values, read_labels

MANY_IGNORED = 0.95  # share of the pixels
ADVICE = 'Set reduce_zero_label of the data set, or the values 0 and 255 (docs/datasets.md)'


@dataclass
class LabelMaps:
    """Values of the label maps that were read."""

    total: int  # label maps in the data set
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))  # per value
    values: dict[str, set[int]] = field(default_factory=dict)  # of each readable map, by path
    faults: dict[str, str] = field(default_factory=dict)  # of each other map, by path

    @property
    def read(self) -> int:
        return len(self.values) + len(self.faults)

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
            labels = read_labels(path, *(_shown(image) or _shown(path) or ((0, 0), 1)))
            counts = count_values(path, labels)
        except BadSample as error:
            found.faults[path] = str(error)
        else:
            found.pixels += counts
            found.values[path] = set(np.flatnonzero(counts).tolist())
        if time.monotonic() > end:
            break
    return found


def _shown(path: str | Path) -> tuple[tuple[int, int], int] | None:
    """Return (height, width) of an image as shown, and its EXIF orientation; None if unreadable."""
    try:
        with Image.open(path) as image:
            orientation = exif_orientation(image)
            return image.size if orientation >= 5 else image.size[::-1], orientation
    except Exception:  # reported when the image is read
        return None


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
    `skip_bad`, label maps that cannot be used are no error. See `class_of_values` for the others.
    """
    for text in group_messages(maps.faults):
        yield text, not skip_bad
    values = np.flatnonzero(maps.pixels)
    if not len(values):
        return
    table = class_of_values(len(classes), reduce_zero_label, label_map)
    found = set(table[values].tolist()) - {-1, IGNORE}
    ignored = set(values[table[values] == IGNORE].tolist())
    unknown = set(values[table[values] < 0].tolist())
    if unknown:
        paths = sorted(path for path, own in maps.values.items() if own & unknown)
        expected = expected_values(len(label_map or classes), reduce_zero_label)
        where = f'{len(paths)} of {maps}, e.g. {paths[0]}'
        yield f'values {_join(unknown)} in {where}: {expected}. {ADVICE}', not skip_bad
    elif len(found) < 2:
        only = f'{classes[found.pop()]!r} is the only class' if found else 'no pixel has a class'
        text = f'{only} in {maps}, so there is nothing to learn. The values are {_join(values)}'
        text += f' with reduce_zero_label={reduce_zero_label}. {ADVICE}'
        yield text, maps.read == maps.total or bool(ignored)
        return
    if not training:
        return

    absent = [name for number, name in enumerate(classes) if number not in found]
    if absent and not unknown:
        names = join_names([repr(name) for name in absent])
        yield f'no pixel of {maps} has these classes: {names}', False
    share = maps.pixels[list(ignored)].sum() / maps.pixels.sum()
    if share > MANY_IGNORED:
        yield f'{share:.1%} of the pixels of {maps} are ignored (values {_join(ignored)})', False
    if empty := sorted(path for path, own in maps.values.items() if own <= ignored):
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


def _join(values: Iterable[int]) -> str:
    return join_names([str(value) for value in sorted(values)])

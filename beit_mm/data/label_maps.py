"""What a number of label maps hold, and what of it cannot be learned; `tools/check_layout.py` and the check before training."""

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import groupby
from math import inf
from pathlib import Path

import numpy as np
from PIL import Image

from .reading import IGNORE, BadSample, decode_labels, read_bytes, to_classes


@dataclass
class LabelMaps:
    """Values of the label maps that were read.

    Args:
        total: number of label maps in the data set.
        pixels: int64 [256], how many pixels have each value.
        values: path and values of each readable label map.
        bad: path of each other one, and what is wrong with it.
    """

    total: int
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    values: list[tuple[str, set[int]]] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)

    @property
    def read(self) -> int:
        return len(self.values) + len(self.bad)

    @property
    def words(self) -> str:
        if self.read < self.total:
            return f'a sample of {self.read} of {self.total} label maps'
        return f'{self.total} label map{"s" if self.total > 1 else ""}'


def read_label_maps(
    pairs: Iterable[tuple[str | Path, str | Path]], total: int, seconds: float = inf
) -> LabelMaps:
    """Read the label maps of pairs (image, label map) until the time is up."""
    found, end = LabelMaps(total), time.monotonic() + seconds
    for image, path in pairs:
        try:
            content = read_bytes(str(path))
            shown, orientation = _shown(image) or _shown(BytesIO(content)) or ((0, 0), 1)
            ids = decode_labels(str(path), content, shown, orientation)
            if not 0 <= ids.min() <= ids.max() <= IGNORE:
                raise BadSample(
                    f'{path} has the value {ids.max()}: values from 0 to {IGNORE} are expected'
                )
        except BadSample as error:
            found.bad.append((str(path), str(error)))
        else:
            counts = np.bincount(ids.ravel(), minlength=256)
            found.pixels += counts
            found.values.append((str(path), set(np.flatnonzero(counts).tolist())))
        if time.monotonic() > end:
            break
    return found


def _shown(source: str | Path | BytesIO) -> tuple[tuple[int, int], int] | None:
    """Height and width of an image as shown, and its EXIF orientation; None if Pillow cannot open it."""
    try:
        with Image.open(source) as image:
            turned = image.getexif().get(0x0112, 1)
            return (
                image.size if turned in range(5, 9) else image.size[::-1]
            ), turned if turned in range(1, 9) else 1
    except Exception:  # whatever is wrong with an image is said when it is read
        return None


def problems(
    maps: LabelMaps,
    classes: Sequence[str],
    reduce_zero_label: bool,
    label_map: dict[int, int] | None = None,
    training: bool = True,
    skip_bad: bool = False,
) -> Iterator[tuple[str, bool]]:
    """Yield (what is wrong, whether it is an error rather than a remark) with label maps of these classes.

    Args:
        classes: names in the order of the labels.
        reduce_zero_label: 0 is unlabelled and 1 is the first class.
        label_map: see `to_classes`.
        training: also say what makes learning hard, such as a class that does not occur.
        skip_bad: training skips label maps that cannot be used, so they are no error.
    """
    yield from ((line, not skip_bad) for line in grouped(maps.bad))
    values = np.flatnonzero(maps.pixels).tolist()
    if not values:
        return
    meaning = {
        value: _class_of(value, len(classes), reduce_zero_label, label_map) for value in values
    }
    strange = [value for value in values if meaning[value] is None]
    found = {one for one in meaning.values() if one not in (None, IGNORE)}
    ignored = [value for value in values if meaning[value] == IGNORE]
    complete = maps.read == maps.total
    if strange:
        yield _no_class(maps, strange, len(label_map or classes), reduce_zero_label), not skip_bad
    elif len(found) < 2:
        what, effect = 'no pixel has a class in', 'the loss is exactly 0'
        if found:
            what, effect = (
                f'{classes[found.pop()]!r} is the only class in',
                'there is nothing to tell apart',
            )
        fix = _fix(values, reduce_zero_label)
        named = (
            f', of which {spans(ignored)} {"are" if ignored[1:] else "is"} ignored'
            if ignored
            else ''
        )
        zero = ' (reduce_zero_label=True)' if reduce_zero_label and 0 in values else ''
        yield (
            f'{what} {maps.words}, so {effect}. The values are {spans(values)}{named}{zero}{fix}',
            complete or bool(fix),
        )
        return
    if not training:
        return
    absent = [number for number in range(len(classes)) if number not in found]
    if absent and not strange:
        names = ', '.join(repr(classes[number]) for number in absent[:8])
        names += f' … ({len(absent)} classes)' if len(absent) > 8 else ''
        shifted = reduce_zero_label and 0 in values and absent == [len(classes) - 1]
        yield (
            f'{names} {"occur" if absent[1:] else "occurs"} in none of {maps.words}'
            + (_fix([0], True) if shifted else ''),
            False,
        )
    share = maps.pixels[ignored].sum() / maps.pixels.sum()
    if share > 0.95:
        yield (
            f'{share:.1%} of the pixels of {maps.words} are ignored (the values {spans(ignored)})',
            False,
        )
    if empty := sorted(path for path, own in maps.values if own <= set(ignored)):
        yield f'{len(empty)} of {maps.words} have no pixel with a class, e.g. {empty[0]}', False


def _class_of(
    value: int, classes: int, reduce_zero_label: bool, label_map: dict[int, int] | None
) -> int | None:
    """The class of a value in a label map, 255 if it is ignored, None if it has none."""
    try:
        return int(
            to_classes('', np.full((1, 1), value, np.uint8), classes, reduce_zero_label, label_map)[
                0, 0
            ]
        )
    except BadSample:
        return None


def _no_class(maps: LabelMaps, strange: list[int], classes: int, reduce_zero_label: bool) -> str:
    having = sorted(path for path, own in maps.values if own & set(strange))
    valid = f'1 … {classes} are the classes, 0 and 255 are ignored (reduce_zero_label=True)'
    if not reduce_zero_label:
        valid = f'0 … {classes - 1} are the classes, 255 is ignored (reduce_zero_label=False)'
        if strange == [classes]:
            valid += '. If 0 is unlabelled, set reduce_zero_label=True in the data set (and in LoadAnnotations, if set there)'
    one = 'the value' if len(strange) == 1 else 'the values'
    return f'{one} {spans(strange)} in {len(having)} of {maps.words}, e.g. {having[0]}: {valid}'


def _fix(values: list[int], reduce_zero_label: bool) -> str:
    """Say how to get a second class out of label maps in which only one has been found."""
    steps, which = [], []
    if reduce_zero_label and 0 in values:
        which.append('0')
        steps.append(
            'set reduce_zero_label=False in the data set (and in LoadAnnotations, if set there)'
        )
        steps.append('name the class of 0 first')
    if IGNORE in values:
        which.append('255')
        steps.append(
            f'write {max((v for v in values if v != IGNORE), default=0) + 1} in place of 255'
        )
    if not which:
        return ''
    steps = ' and '.join(filter(None, [', '.join(steps[:-1]), steps[-1]]))
    return f'. If {" and ".join(which)} {"are classes" if which[1:] else "is a class"}, {steps}'


def spans(values: list[int]) -> str:
    """[0, 6, 7, 8] → '0, 6–8'."""
    runs = [
        [v for _, v in run] for _, run in groupby(enumerate(values), lambda pair: pair[1] - pair[0])
    ]
    return ', '.join(f'{run[0]}–{run[-1]}' if run[2:] else ', '.join(map(str, run)) for run in runs)


def grouped(faults: list[tuple[str, str]]) -> list[str]:
    """One line for all faults (path, words) that differ in their path and numbers alone."""
    kinds = {}
    for path, words in sorted(faults):
        kinds.setdefault(re.sub(r'\d+', '0', words.replace(path, '')), []).append(words)
    return [
        words[0] + (f' (and {len(words) - 1} more like it)' if words[1:] else '')
        for words in kinds.values()
    ]

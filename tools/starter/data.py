"""Content of a folder of images for a task: splits, channels, classes, masks."""

import colorsys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from . import labels, masks
from .images import Split, Statistics, measure, split_images

GOLDEN_ANGLE = 137.5  # degrees between the hues of neighboring classes
DOMINANT_SHARE, DOMINANT_WEIGHT = 0.5, 0.4  # of a class that covers most pixels


@dataclass
class Data:
    """Images of a task.

    Args:
        several_labels: an image may have several classes.
    """

    train: Split | masks.Pairs
    val: Split | masks.Pairs
    images: Statistics | None = None
    classes: list[str] = field(default_factory=list)
    classes_reason: str = ''
    several_labels: bool = False
    reduce_zero_label: bool = False
    palette: list[list[int]] = field(default_factory=list)
    class_weight: list[float] = field(default_factory=list)
    class_weight_reason: str = ''


def read_data(
    task: str,
    folder: Path,
    out: Path,
    mask_folder: Path | None,
    ask_zero: Callable[[str], str],
    colors: Path | None,
) -> Data:
    """Read a folder; write lists beside `out` where it has no splits, and masks with numbers."""
    found = None
    if task == 'segmentation':
        splits = masks.find_pairs(folder, mask_folder, out)
        names = masks.convert_colors(splits, colors, out) if colors else []
        data = Data(**splits)
        _name_classes(data, folder, names, ask_zero)
    elif task == 'classification':
        found = labels.find_labels(folder, out)
        splits = found.splits
        data = Data(**splits, classes=found.classes, several_labels=bool(found.several))
    else:
        splits = split_images(folder, out)
        data = Data(**splits)
    data.images, unreadable = measure(data.train, data.val)
    for name, split in splits.items():
        split.exclude(unreadable, out.with_name(f'{out.stem}_{name}.txt'))
        if split.list_file:
            lines = labels.list_lines(found, split) if found else split.entries
            split.list_file.write_text('\n'.join(lines) + '\n', encoding='utf-8')
    return data


def _name_classes(
    data: Data, folder: Path, names: list[str], ask_zero: Callable[[str], str]
) -> None:
    """Set classes, palette and weights of the classes from the values of the masks."""
    values = masks.read_values(data.train, (lambda shown: 'background') if names else ask_zero)
    first = 0 if values.zero_is_class else 1
    file = folder / 'classes.txt'
    if names:
        data.classes_reason = 'from the table of colors'
    elif file.is_file():
        names = [line.strip() for line in file.read_text(encoding='utf-8').splitlines() if line]
        data.classes_reason = f'from {file}'
        if values.zero_is_class and len(names) == values.count - 1:
            names = ['background', *names]
        if len(names) < values.count:
            raise ValueError(
                f'{file} has {len(names)} classes, and the masks have the values {first} … '
                f'{first + values.count - 1}: add the missing names'
            )
    else:
        data.classes_reason = f'values of the masks: name them here, or line by line in {file}'
        names = [f'class {number}' for number in range(first, first + values.count)]
        names[0] = 'background' if values.zero_is_class else names[0]
    data.classes = names
    data.palette = [_color(number) for number in range(len(names))]
    data.reduce_zero_label = not values.zero_is_class
    data.class_weight, data.class_weight_reason = [1.0] * len(names), 'one number per class'
    share = max(values.shares)
    if share > DOMINANT_SHARE:
        common = values.shares.index(share)
        data.class_weight[common] = DOMINANT_WEIGHT
        data.class_weight_reason = (
            f'{names[common]} covers {100 * share:.0f} % of the pixels; with equal weights a short '
            'run predicts it everywhere'
        )


def _color(number: int) -> list[int]:
    """Return a color that differs from those of neighboring numbers."""
    hue = number * GOLDEN_ANGLE / 360 % 1
    rgb = colorsys.hsv_to_rgb(hue, 0.75 if number % 2 else 0.55, 0.85)
    return [round(255 * value) for value in rgb]

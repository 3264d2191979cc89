"""Labels of images: one folder per class, or a table with several labels per image."""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path

from image_folders.listing import list_images

from beit_mm.data.class_numbers import compare_classes, read_numbering
from beit_mm.data.image_files import SUFFIXES

from .images import Split, check_not_empty, find_splits, hold_out

LABELS_FILE = 'labels.csv'
SEPARATORS = (';', '|')  # between the labels of an image


@dataclass
class Labels:
    """Splits of a classification data set.

    `several` holds the numbers of the classes of each image if an image may have several.
    """

    classes: list[str]
    splits: dict[str, Split]
    several: dict[str, list[int]] = field(default_factory=dict)


def find_labels(folder: Path, out: Path) -> Labels:
    """Find class folders, with or without split folders, or `labels.csv`.

    Raises ValueError if there are neither, or the splits have other classes.
    """
    if (folder / LABELS_FILE).is_file():
        return _read_table(folder, out)
    if folders := find_splits(folder):
        numberings = {name: read_numbering(str(path), path, None) for name, path in folders.items()}
        for text, _ in compare_classes(numberings['train'], numberings['val']):
            raise ValueError(text)
        classes = list(numberings['train'].folders)
        splits = {name: Split(path, list_images(path, SUFFIXES)) for name, path in folders.items()}
    else:
        classes = list(read_numbering(str(folder), folder, None).folders)
        splits = _split_classes(folder, classes, out)
    if len(classes) < 2:
        raise ValueError(
            f'{folder} has {len(classes)} class folders: expected one folder per class, or a table '
            f'{LABELS_FILE} with the columns image and label'
        )
    for split in splits.values():
        check_not_empty(split.folder, split.names)
    return Labels(classes, splits)


def list_lines(labels: Labels, split: Split) -> list[str]:
    """Return lines `path label`, or with several labels the JSON of mmpretrain's data set."""
    numbers = {name: number for number, name in enumerate(labels.classes)}
    if not labels.several:
        return [f'{name} {numbers[Path(name).parts[0]]}' for name in split.names]
    samples = [dict(img_path=name, gt_label=labels.several[name]) for name in split.names]
    return [json.dumps(dict(metainfo=dict(classes=labels.classes), data_list=samples))]


def _split_classes(folder: Path, classes: list[str], out: Path) -> dict[str, Split]:
    """Hold out images of each class."""
    names = list_images(folder, SUFFIXES)
    held_out = set()
    for name in classes:
        held_out |= set(hold_out([path for path in names if Path(path).parts[0] == name]))
    loose = {path for path in names if len(Path(path).parts) == 1}
    train = [path for path in names if path not in held_out | loose]
    return dict(
        train=Split(folder, train, out.with_name(f'{out.stem}_train.txt')),
        val=Split(folder, sorted(held_out), out.with_name(f'{out.stem}_val.txt')),
    )


def _read_table(folder: Path, out: Path) -> Labels:
    """Read columns image and label (`cat;dog`), or one column of 0 and 1 per class."""
    path = folder / LABELS_FILE
    with open(path, encoding='utf-8-sig', newline='') as file:
        header, *rows = csv.reader(file)
    classes, labels = (header[1:], {}) if len(header) > 2 else ([], {})
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise ValueError(
                f'{path}, line {number} has {len(row)} columns: expected {len(header)}'
            )
        if len(header) > 2:
            labels[row[0]] = [
                name for name, value in zip(classes, row[1:], strict=True) if value == '1'
            ]
        else:
            text = row[1]
            for separator in SEPARATORS:
                text = text.replace(separator, SEPARATORS[0])
            labels[row[0]] = [name.strip() for name in text.split(SEPARATORS[0]) if name.strip()]
    classes = classes or sorted({name for names in labels.values() for name in names})
    if missing := sorted(name for name in labels if not (folder / name).is_file()):
        raise ValueError(
            f'{path} lists {len(missing)} images that {folder} does not have: {missing[0]}'
        )
    check_not_empty(folder, list(labels))
    held_out = set(hold_out(list(labels)))
    numbers = {name: number for number, name in enumerate(classes)}
    splits = {}
    for split in ('train', 'val'):
        names = sorted(name for name in labels if (name in held_out) == (split == 'val'))
        splits[split] = Split(folder, names, out.with_name(f'{out.stem}_{split}.json'))
    several = {name: [numbers[label] for label in found] for name, found in labels.items()}
    return Labels(classes, splits, several)

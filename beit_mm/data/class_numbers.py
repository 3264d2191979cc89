"""Numbers of the classes of classification data sets, and differences between data sets."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..utils.arguments import join_names

Message = tuple[str, bool]  # the text, and whether it is an error rather than a remark
Classes = Mapping[str, int] | Iterable[str]  # name → number, or names in their order


@dataclass
class Numbering:
    """Numbers of the classes of a data set.

    In a list, the folder of a class is the first one that not all paths share. `folders` is empty
    if such folders and labels do not correspond.
    """

    place: str  # of the data set, for messages
    names: tuple[str, ...] = ()  # of the classes, in the order of the labels
    folders: dict[str, int] = field(default_factory=dict)  # class folder → label
    list_file: str | None = None  # None: labels are the numbers of the sorted folders
    labels: set[int] = field(default_factory=set)  # all labels of the list
    fault: str | None = None  # why the list cannot be read

    def check(self, num_classes: int) -> Iterator[Message]:
        """Yield the faults of this data set for a model with `num_classes` classes."""
        if self.fault:
            yield self.fault, True
        if too_high := sorted(label for label in self.labels if label >= num_classes):
            expected = f'expected 0 … {num_classes - 1}. The first class is 0'
            yield f'{self.list_file} has the labels {_join(too_high)}, {expected}', True
        places = {f'classes of {self.place}': self.names, 'its folders': self.folders}
        if difference := describe_difference(places, shared_only=True):
            yield f'{difference}. Sort `classes` by label', False


def read_numbering(
    place: str, folder: str | Path, list_file: str | Path | None, names: Iterable[str] = ()
) -> Numbering:
    """Read how the images in `folder` are numbered: by lines `path label`, or by sorted folders."""
    found = Numbering(place, tuple(names), list_file=str(list_file) if list_file else None)
    if not list_file:
        with os.scandir(folder) as entries:  # data sets skip hidden folders too
            classes = [e.name for e in entries if e.is_dir() and not e.name.startswith('.')]
        found.folders = _numbers(sorted(classes))
        return found

    pairs = set()
    with open(list_file, encoding='utf-8', errors='surrogateescape') as lines:
        for number, line in enumerate(map(str.strip, lines), 1):
            path, _, label = line.rpartition(' ')
            if path and label.isdecimal():
                pairs.add((os.path.dirname(path), int(label)))
            elif line:
                expected = 'expected a path, a space and a class number'
                found.fault = f'{list_file}, line {number} is {line!r}, {expected}'
                return found
    found.labels = {label for _, label in pairs}
    common = os.path.commonpath([folder for folder, _ in pairs]) if pairs else ''
    pairs = {(os.path.relpath(folder or '.', common or '.'), label) for folder, label in pairs}
    pairs = {(relative.split(os.sep)[0], label) for relative, label in pairs}
    folders = dict(sorted(pairs))
    if '.' not in folders and len(pairs) == len(folders) == len(found.labels):
        found.folders = folders
    return found


def compare_classes(first: Numbering, other: Numbering) -> Iterator[Message]:
    """Yield how the classes of two data sets differ: in names, order or number."""
    # A list does not need to have all classes, and folders can have other names than classes.
    same_kind = not first.list_file and not other.list_file
    comparisons = [
        (first.names, other.names, not first.names or not other.names),
        (first.folders, other.folders, not same_kind or not first.folders or not other.folders),
        (first.folders or first.names, other.folders or other.names, True),
    ]
    for mine, theirs, shared_only in comparisons:
        places = {first.place: mine, other.place: theirs}
        if first is not other and (difference := describe_difference(places, shared_only)):
            advice = 'Give all splits the same classes in the same order'
            yield f'the classes differ: {difference}. {advice}', True
            return
    if first.labels and (unseen := sorted(other.labels - first.labels)):
        text = f'{other.list_file} has the labels {_join(unseen)}'
        yield f'{text}, which no image of {first.list_file} has', False


def describe_difference(places: Mapping[str, Classes], shared_only: bool = False) -> str | None:
    """Say how the classes at two places differ, or only the classes that both have."""
    (first, other), (mine, theirs) = places, map(_numbers, places.values())
    pairs = (first, mine.keys() - theirs.keys()), (other, theirs.keys() - mine.keys())
    only = [f'only in {place}: {_join(sorted(names))}' for place, names in pairs if names]
    if only and not shared_only:
        return ', '.join(only)
    for name in mine:
        if name in theirs and mine[name] != theirs[name]:
            return f'{name!r} is number {mine[name]} in {first} and {theirs[name]} in {other}'
    return None


def _numbers(classes: Classes) -> dict[str, int]:
    if isinstance(classes, Mapping):
        return dict(classes)
    return {name: number for number, name in enumerate(classes)}


def _join(values: Iterable[object]) -> str:
    return join_names([repr(value) for value in values])

"""How a classification data set numbers its classes, and where two splits do it differently."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..utils.arguments import join_names


@dataclass
class Numbering:
    """How a data set numbers its classes.

    Args:
        place: where the data set is, for messages.
        names: of the classes, in the order of the labels.
        folders: class folder → label, the first folder that the paths of a list do not share. Empty for a list in which
            folders and labels do not correspond one to one.
        listed: the file with the labels; None if they are the numbers of the sorted folders.
        labels: all that occur in the list.
        fault: why the list cannot be read.
    """

    place: str
    names: tuple[str, ...] = ()
    folders: dict[str, int] = field(default_factory=dict)
    listed: str | None = None
    labels: set[int] = field(default_factory=set)
    fault: str | None = None

    def problems(self, classes: int) -> Iterator[tuple[str, bool]]:
        """Yield (what is wrong, whether it is an error rather than a remark) with this data set, which has so many classes."""
        if self.fault:
            yield self.fault, True
        if high := sorted(label for label in self.labels if label >= classes):
            hint = (
                '. Subtract 1 from all labels'
                if min(self.labels) == 1 and high == [classes]
                else ''
            )
            words = f'{self.listed} has the labels {join_names([*map(repr, high)])}, but the classes are numbered 0 … {classes - 1}'
            yield words + hint, True
        moved = [
            n
            for n, label in self.folders.items()
            if n in self.names and self.names[label : label + 1] != (n,)
        ]
        if moved:
            label = self.folders[moved[0]]
            words = f'{self.place}: the folder {moved[0]!r} has the label {label}, but classes[{label}] is another'
            yield f'{words}. Sort `classes` by label', False


def read_numbering(
    place: str, folder: str | Path, listed: str | Path | None, names: Iterable[str] = ()
) -> Numbering:
    """Return how the images in `folder` are numbered: by a list of `path label` lines, or else by its sorted sub-folders."""
    found = Numbering(place, tuple(names), listed=str(listed) if listed else None)
    if not listed:
        with os.scandir(folder) as entries:  # the data sets do not list hidden folders either
            inside = sorted(
                entry.name for entry in entries if entry.is_dir() and not entry.name.startswith('.')
            )
        found.folders = {name: label for label, name in enumerate(inside)}
        return found
    pairs = set()
    with open(listed, encoding='utf-8', errors='surrogateescape') as lines:
        for number, line in enumerate(lines, 1):
            name, _, label = line.strip().rpartition(' ')
            if not line.strip():
                continue
            if not name or not label.isdecimal():
                found.fault = f'{listed}, line {number}: {line.strip()!r}, expected a path, a space and a class number'
                return found
            found.labels.add(int(label))
            pairs.add((Path(name).parent.parts, int(label)))
    shared = _shared_length([parts for parts, _ in pairs])
    pairs = {(''.join(parts[shared : shared + 1]), label) for parts, label in pairs}
    folders = dict(sorted(pairs))
    if '' not in folders and len(pairs) == len(folders) == len(found.labels):
        found.folders = folders
    return found


def _shared_length(paths: list[tuple[str, ...]]) -> int:
    """Return how many leading folders all paths share."""
    columns = zip(*paths, strict=False)
    return next(
        (i for i, column in enumerate(columns) if len(set(column)) > 1),
        min(map(len, paths), default=0),
    )


def compare_classes(first: Numbering, other: Numbering) -> Iterator[tuple[str, bool]]:
    """Yield (what differs, whether it is an error) where the classes of two data sets differ in names, order or number."""
    by_name = [{name: label for label, name in enumerate(each.names)} for each in (first, other)]
    pairs = [tuple(by_name)] if all(by_name) else []
    if not first.listed and not other.listed and first.folders and other.folders:
        pairs.append((first.folders, other.folders))
    # A list need not have all classes, and folders need not be called as the classes.
    numbers = [each.folders or names for each, names in zip((first, other), by_name, strict=True)]
    shared = numbers[0].keys() & numbers[1].keys()
    pairs.append(
        tuple({name: label for name, label in each.items() if name in shared} for each in numbers)
    )
    for mine, theirs in pairs:
        if words := difference(first.place, mine, other.place, theirs):
            yield (
                f'the classes differ: {words}. Give all splits the same classes in the same order',
                True,
            )
            return
    if first.labels and (unseen := sorted(other.labels - first.labels)):
        yield (
            f'{other.listed} has the labels {join_names([*map(repr, unseen)])}, which no image of {first.listed} has',
            False,
        )


def difference(place: str, mine: dict[str, int], other: str, theirs: dict[str, int]) -> str | None:
    """Say which classes two numberings do not share, or one that has two numbers; None if they are equal."""
    only = (
        [name for name in mine if name not in theirs],
        [name for name in theirs if name not in mine],
    )
    words = [
        f'{where} has {join_names([*map(repr, names)])}'
        for where, names in zip((place, other), only, strict=True)
        if names
    ]
    if words:
        return ', '.join(words) + ('' if all(only) else f', {other if only[0] else place} does not')
    moved = next((name for name, label in mine.items() if theirs[name] != label), None)
    return moved and f'{moved!r} is number {mine[moved]} in {place} and {theirs[moved]} in {other}'

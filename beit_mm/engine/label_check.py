"""Do the labels of a config's data fit its classes and each other? Read before training, on rank 0 alone."""

import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.dataset import BaseDataset
from mmengine.registry import init_default_scope

from ..checkpoint.fit import few
from ..compat import installed
from ..data.label_maps import problems, read_label_maps
from ..recipe.tree import get, kind, nodes
from ..registry import DATASETS
from .config_names import Problem, walk

MAX_LIST_BYTES = 1 << 26  # longer lists are not read before training
SAMPLE, SECONDS = 200, 5  # label maps of a training set that are read; time to read those of one data set


def labels(cfg: dict) -> Iterator[Problem]:
    """Yield what is wrong with the labels of all splits, if the model has a head with classes."""
    classes = _classes_of_the_head(cfg.get('model'))
    scope = cfg.get('default_scope') or 'mmengine'
    if classes is None or _rank() or not (scope == 'mmengine' or installed(scope)):
        return
    init_default_scope(scope)
    seen, skip = [], get(cfg, 'train_dataloader', 'dataset', 'on_bad_sample') == 'skip'
    for place, node in _data_sets(cfg):
        try:
            dataset = DATASETS.build(dict(node, pipeline=[], lazy_init=True, serialize_data=False))
            seen.append(_numbering(place, dataset))
            found = [*seen[-1].problems(classes), *compare_classes(seen[0], seen[-1])]
            found += _label_maps(place, dataset, node.get('pipeline'), classes, skip and place.startswith('train'))
        except Exception as error:  # data sets of the hosts raise all kinds
            found = [Problem(f'{place}: its labels were not checked, it cannot be built: {error}', stops=False)]
        yield from found


def _rank() -> int:
    """The rank of this process, also before the process group is made."""
    return int(next(filter(None, map(os.environ.get, ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'))), 0))


def _classes_of_the_head(model: object) -> int | None:
    heads = (node.get('num_classes') for node in nodes(model) if kind(node).endswith('Head'))
    return next((number for number in heads if isinstance(number, int)), None)


def _data_sets(cfg: dict) -> Iterator[tuple[str, dict]]:
    """(place in the config, config) of each data set that names files on this machine."""
    seen = []
    for split in ('train', 'val', 'test'):
        for path, node in walk(get(cfg, f'{split}_dataloader', 'dataset'), f'{split}_dataloader.dataset'):
            names_files = kind(node) and {'data_root', 'data_prefix', 'ann_file'} & set(node)
            if names_files and not node.get('backend_args') and node not in seen:
                seen.append(node)
                yield path, node


# -- classes -----------------------------------------------------------------------------------------------------------


@dataclass
class Numbering:
    """How a data set numbers its classes.

    Args:
        place: where the data set is, for messages.
        names: of the classes, in the order of the labels.
        folders: class folder → label. In a list only folders of which all images have the same label.
        listed: the file with the labels; None if they are the numbers of the sorted folders.
        labels: all that occur in the list.
        fault: why the list cannot be read.
        reduce_zero_label: of a data set with label maps; None: it has none.
    """

    place: str
    names: tuple[str, ...] = ()
    folders: dict[str, int] = field(default_factory=dict)
    listed: str | None = None
    labels: set[int] = field(default_factory=set)
    fault: str | None = None
    reduce_zero_label: bool | None = None

    def problems(self, classes: int) -> Iterator[Problem]:
        """Yield what is wrong with this data set itself, for a head of so many classes."""
        if self.fault:
            yield Problem(self.fault)
        if high := sorted(label for label in self.labels if label >= classes):
            words = (
                f'{self.listed} has the labels {few([*map(str, high)])}, but the classes are numbered 0 … {classes - 1}'
            )
            yield Problem(
                words + ('. Subtract 1 from all labels' if min(self.labels) == 1 and high == [classes] else '')
            )
        moved = [n for n, label in self.folders.items() if n in self.names and self.names[label : label + 1] != (n,)]
        if moved:
            label = self.folders[moved[0]]
            words = f'{self.place}: the folder {moved[0]!r} has the label {label}, but classes[{label}] is another'
            yield Problem(f'{words}. Sort `classes` by label', stops=False)


def read_numbering(place: str, folder: str | Path, listed: str | Path | None, names: Iterable[str] = ()) -> Numbering:
    """Return how the images in `folder` are numbered: by a list of `path label` lines, or else by its sorted sub-folders."""
    found = Numbering(place, tuple(names), listed=str(listed) if listed else None)
    if not listed:
        with os.scandir(folder) as entries:  # the data sets do not list hidden folders either
            inside = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith('.'))
        found.folders = {name: label for label, name in enumerate(inside)}
        return found
    mixed = set()
    with open(listed, encoding='utf-8', errors='surrogateescape') as lines:
        for number, line in enumerate(lines, 1):
            name, _, label = line.strip().rpartition(' ')
            if not line.strip():
                continue
            if not name or not label.isdecimal():
                found.fault = f'{listed}, line {number}: {line.strip()!r}, expected a path, a space and a class number'
                return found
            found.labels.add(int(label))
            top, slash, _ = name.partition('/')
            if slash and found.folders.setdefault(top, int(label)) != int(label):
                mixed.add(top)
    found.folders = {name: label for name, label in found.folders.items() if name not in mixed}
    return found


def _numbering(place: str, dataset: BaseDataset) -> Numbering:
    names, prefix = dataset.metainfo.get('classes') or (), (dataset.data_prefix or {}).get('img_path')
    if getattr(dataset, 'with_label', False):  # mmpretrain's CustomDataset and its subclasses, ImageList
        listed = dataset.ann_file
        if listed and os.path.isfile(listed) and os.path.getsize(listed) <= MAX_LIST_BYTES:
            return read_numbering(place, prefix, listed, names)
        if not listed and prefix and os.path.isdir(prefix):
            return read_numbering(place, prefix, None, names)
    return Numbering(place, tuple(names), reduce_zero_label=getattr(dataset, 'reduce_zero_label', None))


def compare_classes(first: Numbering, other: Numbering) -> Iterator[Problem]:
    """Yield where two data sets disagree on the names, the order or the number of the classes."""
    by_name = [{name: label for label, name in enumerate(each.names)} for each in (first, other)]
    pairs = [tuple(by_name)] if all(by_name) else []
    if not first.listed and not other.listed and first.folders and other.folders:
        pairs.append((first.folders, other.folders))
    # A list need not have all classes, and folders need not be called as the classes.
    numbers = [each.folders or names for each, names in zip((first, other), by_name, strict=True)]
    shared = numbers[0].keys() & numbers[1].keys()
    pairs.append(tuple({name: label for name, label in each.items() if name in shared} for each in numbers))
    for mine, theirs in pairs:
        if words := _difference(first.place, mine, other.place, theirs):
            yield Problem(f'the classes differ: {words}. Give all splits the same classes in the same order')
            return
    if first.reduce_zero_label != other.reduce_zero_label:
        words = f'{first.reduce_zero_label} in {first.place} and {other.reduce_zero_label} in {other.place}'
        yield Problem(f'reduce_zero_label is {words}: the same value would be two classes. Make them equal')
    if first.labels and (unseen := sorted(other.labels - first.labels)):
        words = f'{other.listed} has the labels {few([*map(str, unseen)])}, which no image of {first.listed} has'
        yield Problem(words, stops=False)


def _difference(place: str, mine: dict[str, int], other: str, theirs: dict[str, int]) -> str | None:
    """Say which classes two numberings do not share, or one that has two numbers; None if they are equal."""
    only = [name for name in mine if name not in theirs], [name for name in theirs if name not in mine]
    words = [
        f'{where} has {few([*map(repr, names)])}' for where, names in zip((place, other), only, strict=True) if names
    ]
    if words:
        return ', '.join(words) + ('' if all(only) else f', {other if only[0] else place} does not')
    moved = next((name for name, label in mine.items() if theirs[name] != label), None)
    return moved and f'{moved!r} is number {mine[moved]} in {place} and {theirs[moved]} in {other}'


# -- label maps --------------------------------------------------------------------------------------------------------


def _label_maps(place: str, dataset: BaseDataset, pipeline: object, classes: int, skip_bad: bool) -> Iterator[Problem]:
    """Read a sample of the training set's label maps, and all of the validation set's if that takes seconds."""
    folders = dataset.data_prefix or {}
    loads = [step for step in nodes(pipeline) if kind(step) == 'LoadAnnotations']
    if not loads or not folders.get('seg_map_path') or not all(map(os.path.isdir, filter(None, folders.values()))):
        return
    reduce = dataset.reduce_zero_label
    if any(step.get('reduce_zero_label') not in (None, reduce) for step in loads):
        words = f'{place}: reduce_zero_label is {reduce} in the data set and {not reduce} in LoadAnnotations'
        yield Problem(f'{words}. Make them equal')
        return
    if place.startswith('test'):
        return
    dataset.full_init()
    total, training = len(dataset), place.startswith('train')
    order = random.Random(0).sample(range(total), min(total, SAMPLE) if training else total)
    samples = map(dataset.get_data_info, order)
    maps = read_label_maps(((one['img_path'], one['seg_map_path']) for one in samples), total, SECONDS)
    names = dataset.metainfo.get('classes') or [str(number) for number in range(classes)]
    for words, stops in problems(maps, names, reduce, dataset.label_map, training, skip_bad):
        yield Problem(f'{place}: {words}', stops)
    if not training and maps.read < total:
        words = (
            f'{place}: {maps.words} was read in {SECONDS} s; python tools/check_data.py CONFIG --split val reads all'
        )
        yield Problem(words, stops=False)

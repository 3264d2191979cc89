"""Check the labels of the data against the classes of the head, and splits against each other."""

import os
import random
from collections.abc import Iterator

from mmengine.dataset import BaseDataset
from mmengine.registry import init_default_scope

from ..data.class_numbers import Numbering, compare_classes, read_numbering
from ..data.label_maps import IGNORE, check_label_maps, read_label_maps
from ..registry import DATASETS
from ..utils.config_tree import get, kind, nodes, walk
from ..utils.installation import command
from ..utils.packages import is_installed
from .files import local_datasets
from .finding import Finding

MAX_LIST_BYTES = 1 << 26  # longer lists are not read
SAMPLE_SIZE = 200  # label maps of a training set that are read
READ_SECONDS = 5  # per data set


def check_labels(cfg: dict) -> Iterator[Finding]:
    """Compare classes, lists, folders and label maps of all splits with the model's heads."""
    heads = _find_heads(cfg)
    scope = cfg.get('default_scope') or 'mmengine'
    if not heads or not (scope == 'mmengine' or is_installed(scope)):
        return
    init_default_scope(scope)
    classes = next(iter(heads.values()))
    for part in (cfg, cfg['model']):
        given = get(part, 'data_preprocessor', 'num_classes')
        if given and given not in heads.values():
            effect = f'the head has {classes} classes'
            yield Finding(f'data_preprocessor.num_classes={given}', effect)
    skips_bad = get(cfg, 'train_dataloader', 'dataset', 'on_bad_sample') == 'skip'
    checked, first, first_zero = [], None, None
    for path, node in local_datasets(cfg):
        if node in checked:
            continue
        checked.append(node)
        try:
            dataset = DATASETS.build(dict(node, pipeline=[], lazy_init=True, serialize_data=False))
            numbering = _read_numbering(path, dataset)
            yield from _check_number(path, dataset, numbering, heads)
            first = first or numbering
            messages = [*numbering.check(classes), *compare_classes(first, numbering)]
            zero = getattr(dataset, 'reduce_zero_label', None)
            first_zero = first_zero or (zero, path)
            if zero != first_zero[0]:
                values = f'{first_zero[0]} in {first_zero[1]} and {zero} in {path}'
                messages.append((f'reduce_zero_label is {values}: make them equal', True))
            skip = skips_bad and path.startswith('train')
            messages += _check_label_maps(path, dataset, node.get('pipeline'), classes, skip)
        except Exception as error:  # data sets of other packages raise anything
            why = f'the data set cannot be built. {type(error).__name__}: {error}'
            messages = [(f'{path}: its labels were not checked, because {why}', False)]
        yield from (Finding('labels', words, stops=stops) for words, stops in messages)


def check_ignored_class(cfg: dict) -> Iterator[Finding]:
    """Yield an `ignore_index` that is a class, or that differs between the head and the metric."""
    place, head = 'model.decode_head.ignore_index', get(cfg, 'model', 'decode_head')
    classes = get(head, 'num_classes')
    if not isinstance(classes, int):
        return
    ignored = head.get('ignore_index', IGNORE)
    if ignored in range(classes):
        effect = f'this is a class, which is not learned. Pixels without a class have {IGNORE}'
        yield Finding(f'{place}={ignored}', effect, stops=classes <= 2)
    for path, metric in walk(cfg.get('val_evaluator'), 'val_evaluator'):
        own = metric.get('ignore_index', IGNORE)
        if kind(metric) == 'IoUMetric' and own != ignored:
            effect = f'{place}={ignored}, so validation ignores other pixels: make them equal'
            yield Finding(f'{path}.ignore_index={own}', effect, stops=False)


def _find_heads(cfg: dict) -> dict[str, int]:
    """Return place → number of classes of each head; STDCHead may predict edges instead."""
    return {
        f'{path}.num_classes': node['num_classes']
        for path, node in walk(cfg.get('model'), 'model')
        if kind(node).endswith('Head') and kind(node) != 'STDCHead'
        if isinstance(node.get('num_classes'), int)
    }


def _check_number(
    path: str, dataset: BaseDataset, numbering: Numbering, heads: dict[str, int]
) -> Iterator[Finding]:
    """Yield heads with another number of classes than a data set, and a data set without names."""
    # Folders of other splits are compared with those of the training set.
    counts_folders = path.startswith('train') and not dataset.ann_file
    names = numbering.names or (numbering.folders if counts_folders else ())
    for place, classes in heads.items():
        if names and len(names) != classes and not path.startswith('test'):
            yield Finding(f'{place}={classes}', f'{path} has {len(names)} classes')
    is_segmentation = (dataset.data_prefix or {}).get('seg_map_path')
    if is_segmentation and not names and not path.startswith('train'):
        effect = 'no classes are named: set metainfo=dict(classes=…, palette=…), as for training'
        yield Finding(path, effect)


def _read_numbering(path: str, dataset: BaseDataset) -> Numbering:
    names = dataset.metainfo.get('classes') or ()
    folder, listed = (dataset.data_prefix or {}).get('img_path'), dataset.ann_file
    is_readable = folder and os.path.isdir(folder)
    if listed:
        is_readable = os.path.isfile(listed) and os.path.getsize(listed) <= MAX_LIST_BYTES
    # mmpretrain's CustomDataset, and ImageList
    if is_readable and getattr(dataset, 'with_label', False):
        return read_numbering(path, folder, listed or None, names)
    return Numbering(path, tuple(names))


def _check_label_maps(
    path: str, dataset: BaseDataset, pipeline: object, classes: int, skip_bad: bool
) -> Iterator[tuple[str, bool]]:
    """Read a sample of the training set's label maps, and those of validation in the time given."""
    folders = dataset.data_prefix or {}
    loads = [step for step in nodes(pipeline) if kind(step) == 'LoadAnnotations']
    is_here = all(os.path.isdir(folder) for folder in folders.values() if folder)
    if not loads or not folders.get('seg_map_path') or not is_here:
        return
    reduce = dataset.reduce_zero_label
    if any(step.get('reduce_zero_label') not in (None, reduce) for step in loads):
        values = f'{reduce} in the data set and {not reduce} in LoadAnnotations'
        yield f'{path}: reduce_zero_label is {values}. Make them equal', True
        return
    if path.startswith('test') or (dataset.ann_file and not os.path.exists(dataset.ann_file)):
        return
    dataset.full_init()
    total, is_training = len(dataset), path.startswith('train')
    number = min(total, SAMPLE_SIZE) if is_training else total
    samples = map(dataset.get_data_info, random.Random(0).sample(range(total), number))
    pairs = ((sample['img_path'], sample['seg_map_path']) for sample in samples)
    maps = read_label_maps(pairs, total, READ_SECONDS)
    names = dataset.metainfo.get('classes') or [str(number) for number in range(classes)]
    found = check_label_maps(maps, names, reduce, dataset.label_map, is_training, skip_bad)
    yield from ((f'{path}: {words}', stops) for words, stops in found)
    if not is_training and maps.read < total:
        check = f'{command("check_data")} CONFIG --split val'
        yield f'{path}: {maps} was read in {READ_SECONDS} s. To check all: {check}', False

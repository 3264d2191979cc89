"""Do the labels of a config's data fit its classes and each other? Read before training, on rank 0 alone."""

import os
import random
from collections.abc import Iterator

from mmengine.dataset import BaseDataset
from mmengine.registry import init_default_scope

from ..compat import installed
from ..data.class_numbers import Numbering, compare_classes, read_numbering
from ..data.label_maps import problems, read_label_maps
from ..data.reading import IGNORE
from ..registry import DATASETS
from ..utils.config_tree import get, kind, nodes
from .names import Problem, find_classes, walk

MAX_LIST_BYTES = 1 << 26  # longer lists are not read before training
SAMPLE, SECONDS = (
    200,
    5,
)  # label maps of a training set that are read; time to read those of one data set


def labels(cfg: dict) -> Iterator[Problem]:
    """Yield what is wrong with the labels of all splits, if the model has a head with classes."""
    classes = _classes_of_the_head(cfg.get('model'))
    scope = cfg.get('default_scope') or 'mmengine'
    if classes is None or _rank() or not (scope == 'mmengine' or installed(scope)):
        return
    init_default_scope(scope)
    seen, zeros = [], {}
    skip = get(cfg, 'train_dataloader', 'dataset', 'on_bad_sample') == 'skip'
    for place, node in _data_sets(cfg):
        try:
            dataset = DATASETS.build(dict(node, pipeline=[], lazy_init=True, serialize_data=False))
            seen.append(_numbering(place, dataset))
            found = [*seen[-1].problems(classes), *compare_classes(seen[0], seen[-1])]
            zero = getattr(dataset, 'reduce_zero_label', None)
            zeros.setdefault(zero, place)
            found += [
                (
                    f'reduce_zero_label is {value} in {where} and {zero} in {place}: make them equal',
                    True,
                )
                for value, where in zeros.items()
                if value != zero
            ]
            found += _label_maps(
                place, dataset, node.get('pipeline'), classes, skip and place.startswith('train')
            )
        except Exception as error:  # data sets of the hosts raise all kinds
            why = f'{type(error).__name__}: {error}'
            found = [
                (f'{place}: its labels were not checked, since it cannot be built. {why}', False)
            ]
        yield from (Problem(*each) for each in found)


def ignored_labels(cfg: dict) -> Iterator[Problem]:
    """Yield an `ignore_index` that is a class, or that differs between the head and the metric."""
    head = get(cfg, 'model', 'decode_head')
    classes = get(head, 'num_classes')
    if not isinstance(classes, int):
        return
    ignored = head.get('ignore_index', IGNORE)
    if ignored in range(classes):
        yield Problem(
            f'model.decode_head.ignore_index={ignored} is the number of a class, which is then not learned. Pixels without '
            f'a class have the label {IGNORE}: remove ignore_index',
            stops=classes <= 2,
        )
    for path, metric in walk(cfg.get('val_evaluator'), 'val_evaluator'):
        own = metric.get('ignore_index', IGNORE)
        if kind(metric) == 'IoUMetric' and own != ignored:
            yield Problem(
                f'{path}.ignore_index={own}, but model.decode_head.ignore_index={ignored}: training and validation '
                'ignore different pixels. Make them equal',
                stops=False,
            )


def unnamed_classes(cfg: dict) -> Iterator[Problem]:
    """Yield a validation set for segmentation that names no classes, which the metric needs."""
    for place, node in _data_sets(cfg):
        classes = next(
            (c for c in find_classes(node['type'], cfg.get('default_scope') or 'mmengine')), None
        )
        named = get(node, 'metainfo', 'classes') or get(getattr(classes, 'METAINFO', {}), 'classes')
        if get(node, 'data_prefix', 'seg_map_path') and not named and not place.startswith('train'):
            yield Problem(
                f'{place} names no classes, and mIoU is computed per class: set metainfo=dict(classes=…, palette=…) as in '
                'the training set'
            )


def _rank() -> int:
    """The rank of this process, also before the process group is made."""
    return int(
        next(filter(None, map(os.environ.get, ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'))), 0)
    )


def _classes_of_the_head(model: object) -> int | None:
    heads = (node.get('num_classes') for node in nodes(model) if kind(node).endswith('Head'))
    return next((number for number in heads if isinstance(number, int)), None)


def _data_sets(cfg: dict) -> Iterator[tuple[str, dict]]:
    """(place in the config, config) of each data set that names files on this machine."""
    seen = []
    for split in ('train', 'val', 'test'):
        for path, node in walk(
            get(cfg, f'{split}_dataloader', 'dataset'), f'{split}_dataloader.dataset'
        ):
            names_files = kind(node) and {'data_root', 'data_prefix', 'ann_file'} & set(node)
            remote = node.get('backend_args') or '://' in str(node.get('data_root'))
            if names_files and not remote and node not in seen:
                seen.append(node)
                yield path, node


def _numbering(place: str, dataset: BaseDataset) -> Numbering:
    names, prefix = (
        dataset.metainfo.get('classes') or (),
        (dataset.data_prefix or {}).get('img_path'),
    )
    if getattr(
        dataset, 'with_label', False
    ):  # mmpretrain's CustomDataset and its subclasses, ImageList
        listed = dataset.ann_file
        if listed and os.path.isfile(listed) and os.path.getsize(listed) <= MAX_LIST_BYTES:
            return read_numbering(place, prefix, listed, names)
        if not listed and prefix and os.path.isdir(prefix):
            return read_numbering(place, prefix, None, names)
    return Numbering(place, tuple(names))


def _label_maps(
    place: str, dataset: BaseDataset, pipeline: object, classes: int, skip_bad: bool
) -> Iterator[tuple[str, bool]]:
    """Read a sample of the training set's label maps, and all of the validation set's if that takes seconds."""
    folders = dataset.data_prefix or {}
    loads = [step for step in nodes(pipeline) if kind(step) == 'LoadAnnotations']
    if (
        not loads
        or not folders.get('seg_map_path')
        or not all(map(os.path.isdir, filter(None, folders.values())))
    ):
        return
    reduce = dataset.reduce_zero_label
    if any(step.get('reduce_zero_label') not in (None, reduce) for step in loads):
        words = f'{place}: reduce_zero_label is {reduce} in the data set and {not reduce} in LoadAnnotations'
        yield f'{words}. Make them equal', True
        return
    if place.startswith('test') or (dataset.ann_file and not os.path.exists(dataset.ann_file)):
        return
    dataset.full_init()
    total, training = len(dataset), place.startswith('train')
    order = random.Random(0).sample(range(total), min(total, SAMPLE) if training else total)
    samples = map(dataset.get_data_info, order)
    maps = read_label_maps(
        ((one['img_path'], one['seg_map_path']) for one in samples), total, SECONDS
    )
    names = dataset.metainfo.get('classes') or [str(number) for number in range(classes)]
    for words, stops in problems(maps, names, reduce, dataset.label_map, training, skip_bad):
        yield f'{place}: {words}', stops
    if not training and maps.read < total:
        all_of_them = 'python tools/check_data.py CONFIG --split val'
        yield f'{place}: {maps.words} was read in {SECONDS} s. To check all: {all_of_them}', False

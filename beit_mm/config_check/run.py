"""Loaders, hooks and folders of a config: what a run of this length, on so many processes, cannot do."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from ..data.reading import SUFFIXES
from ..utils.config_tree import get, kind
from .names import Problem, walk

POOLED = (
    'UPerHead',
    'PSPHead',
    'ASPPHead',
    'DepthwiseSeparableASPPHead',
)  # pool to 1×1 before a norm
MAX_FOLDERS = 1000  # that are read to count images
LOADERS = 'train_dataloader', 'val_dataloader'


def workers(cfg: dict) -> Iterator[Problem]:
    for name in LOADERS:
        loader = cfg.get(name) or {}
        if loader.get('num_workers', 0):
            continue
        for key in ('persistent_workers', 'prefetch_factor'):
            if loader.get(key):
                yield Problem(
                    f'{name}.{key}={loader[key]} with num_workers=0: set num_workers to at least 1, or remove {key}'
                )


def work_dir_can_be_written(cfg: dict) -> Iterator[Problem]:
    if not cfg.get('work_dir'):
        return
    folder = Path(cfg['work_dir']).expanduser().absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        yield Problem(
            f'work_dir={cfg["work_dir"]}: {folder} is a file, expected a folder: set another work_dir'
        )
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield Problem(
            f'work_dir={cfg["work_dir"]}: {folder} cannot be written to: set another work_dir'
        )


def anneals_end_with_the_run(cfg: dict) -> Iterator[Problem]:
    length = get(cfg, 'train_cfg', 'max_iters')
    for i, hook in enumerate(cfg.get('custom_hooks') or []):
        if kind(hook) == 'Anneal' and length and hook['iters'] > length:
            yield Problem(
                f'custom_hooks.{i}.iters={hook["iters"]} is beyond the run of {length} iterations: {hook["attribute"]} does '
                f'not reach {hook["end"]:.3g}. Set it to {length}',
                stops=False,
            )


def palettes(cfg: dict) -> Iterator[Problem]:
    for name in LOADERS:
        for path, node in walk(get(cfg, name, 'dataset'), f'{name}.dataset'):
            classes, palette = (get(node, 'metainfo', key) for key in ('classes', 'palette'))
            if classes and palette and len(classes) != len(palette):
                yield Problem(
                    f'{path}.metainfo has {len(classes)} classes and {len(palette)} colors in its palette: make them equal'
                )


def batches(cfg: dict, ranks: int) -> Iterator[Problem]:
    """Yield what is wrong with the batch size: more than the data set has, or one image under batch norm."""
    loader = cfg.get('train_dataloader') or {}
    batch = loader.get('batch_size')
    dataset = loader.get('dataset') or {}
    node = dataset['dataset'] if kind(dataset) == 'SeededDataset' else dataset
    if batch and loader.get('drop_last') and not get(loader, 'sampler', 'infinite'):
        number = _samples(node, batch * ranks)
        if number and -(-number // ranks) < batch:
            yield Problem(
                f'train_dataloader.batch_size={batch} per process, but the data set has {number} images for {ranks}: with '
                'drop_last=True an epoch has no batch. Set a smaller batch_size'
            )
    for path, head in walk(cfg.get('model'), 'model') if batch == 1 else ():
        norm = kind(head.get('norm_cfg'))
        if (
            kind(head) in POOLED
            and 1 in head.get('pool_scales', (1,))
            and norm in ('BN',) + ('SyncBN',) * (ranks == 1)
        ):
            yield Problem(
                f'train_dataloader.batch_size=1, but {path} pools to 1×1 and {norm} needs more than one value per channel: '
                "set batch_size=2, or norm_cfg=dict(type='GN', num_groups=32)"
            )


def _samples(node: dict, enough: int) -> int | None:
    """Return the number of images in a data set, counted up to `enough`; None if it cannot be told at once."""
    found = sum(1 for _ in islice(image_paths(node), enough))
    return min(found, node['indices']) if isinstance(node.get('indices'), int) else found or None


def image_paths(node: dict) -> Iterator[str]:
    """Yield the images of a data set as its list or its folder of classes names them; none if it is of another kind."""
    listed, prefix = node.get('ann_file'), node.get('data_prefix') or ''
    if kind(node) not in ('CustomDataset', 'ImageList') or not isinstance(prefix, str):
        return
    root = node.get('data_root') or ''
    folder = os.path.join(root, prefix)
    if not listed:
        for parent, _, names in islice(os.walk(folder, followlinks=True), MAX_FOLDERS):
            yield from (
                os.path.join(parent, name) for name in names if name.lower().endswith(SUFFIXES)
            )
    elif os.path.isfile(path := os.path.join(root, listed)):
        with open(path, encoding='utf-8', errors='surrogateescape') as lines:
            for line in filter(str.strip, lines):
                name, _, label = line.strip().rpartition(' ')
                yield os.path.join(folder, name if label.isdecimal() and name else line.strip())

"""Reads every file of a config's data as training would and lists what is wrong; exit status 1 if anything is.

    python tools/check_data.py CONFIG
    python tools/check_data.py CONFIG --split val --jobs 16

Wrong are: files that cannot be read, sizes and labels that do not fit, names that occur twice, label maps without a
label, classes without an image. How often each class occurs is printed as well.
"""

import beit_mm.registry  # noqa: F401  names the packages that are missing

# isort: split
import argparse
import os
import sys
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import init_default_scope
from mmengine.utils import ProgressBar
from torch.utils.data import DataLoader, Dataset

from beit_mm.data.guard import (
    expect_channels,
    guard,
    leaves,
    list_readable,
    read_only,
    words_of_unlisted,
)
from beit_mm.data.reading import IGNORE, MAX_PIXELS, BadSample
from beit_mm.engine.launch import require_packages
from beit_mm.registry import DATASETS
from beit_mm.utils.cfg_options import Options

SPLITS = ('train', 'val', 'test')


class Reports(Dataset):
    """Of each sample: its image's path, what is wrong with it or None, how often (pixels of a map) each class occurs."""

    def __init__(self, leaf: BaseDataset, classes: int):
        self.leaf, self.classes = leaf, classes

    def __len__(self) -> int:
        return len(self.leaf)

    def __getitem__(self, index: int) -> tuple[str, str | None, np.ndarray | None]:
        path = str(self.leaf.get_data_info(index)['img_path'])
        try:
            results = read_only(self.leaf, index)
        except BadSample as error:
            return path, str(error), None
        labels = results.get('gt_seg_map', results.get('gt_label'))
        if labels is None or not self.classes:
            return path, None, None
        counts = np.bincount(np.ravel(labels), minlength=max(self.classes, IGNORE))[: self.classes]
        fault = None
        if 'gt_seg_map' in results and not counts.any():
            ignored = '0 and 255 are' if results['reduce_zero_label'] else '255 is'
            fault = f'{results["seg_map_path"]}: no pixel of it is labelled ({ignored} ignored, see docs/datasets.md)'
        return path, fault, counts


def classes_of(model: dict) -> int | None:
    """How many classes the head of a model config tells apart."""
    model = model.get('module', model)
    head = model.get('head') or model.get('decode_head') or {}
    return (head[-1] if isinstance(head, (list, tuple)) else head).get('num_classes')


def check(leaf: BaseDataset, classes: int | None, jobs: int, training: bool) -> list[str]:
    """Faults of a guarded data set; prints how often each class occurs."""
    names = list(leaf.metainfo.get('classes') or ())
    names = (names + [str(i) for i in range(len(names), classes or 0)])[: classes or len(names)]
    loader = DataLoader(
        Reports(leaf, len(names)),
        batch_size=32,
        num_workers=jobs if jobs > 1 else 0,
        collate_fn=list,
    )
    bar = ProgressBar(len(leaf), file=sys.stderr)
    faults, counts = [], np.zeros(len(names), np.int64)
    keys = np.zeros(len(leaf), np.int64)  # not the names themselves: there may be fourteen million
    done = 0
    for batch in loader:
        for path, fault, labels in batch:
            keys[done] = hash(str(Path(path).with_suffix('')).lower())
            done += 1
            if fault:
                faults.append(fault)
            if labels is not None:
                counts += labels
        bar.update(len(batch))
    print(file=sys.stderr)
    _, first, number = np.unique(keys, return_index=True, return_counts=True)
    for place in first[number > 1][np.argsort(first[number > 1])]:
        paths = sorted(
            {
                str(leaf.get_data_info(int(i))['img_path'])
                for i in np.flatnonzero(keys == keys[place])
            }
        )
        faults.append(
            f'{" and ".join(paths)}: one name, but for the case or the suffix'
            if len(paths) > 1
            else f'{paths[0]} is listed {(keys == keys[place]).sum()} times'
        )
    if counts.any():
        faults += [
            f'the class {name!r} does not occur'
            for name, n in zip(names, counts, strict=True)
            if training and not n
        ]
        order = np.argsort(counts, kind='stable')
        print(
            'fewest: ' + ', '.join(f'{names[i]} {counts[i] / counts.sum():.2%}' for i in order[:5])
        )
        print(
            'most: '
            + ', '.join(f'{names[i]} {counts[i] / counts.sum():.2%}' for i in order[:-6:-1])
        )
    return faults


def check_split(cfg: Config, split: str, jobs: int) -> list[str]:
    node, max_pixels = cfg[f'{split}_dataloader'].dataset, MAX_PIXELS
    if node.type.endswith('SeededDataset'):  # it would stop at the first fault
        node, max_pixels = node.dataset, node.get('max_pixels', MAX_PIXELS)
    classes, faults = classes_of(cfg.model), []
    try:
        dataset = DATASETS.build(list_readable(node))
        for leaf in leaves(dataset):
            if not len(leaf):
                raise ValueError(f'no sample was found in {leaf.data_prefix}')
        guard(dataset, max_pixels, classes)
        preprocessor = cfg.get('data_preprocessor') or cfg.model.get('data_preprocessor') or {}
        expect_channels(dataset, preprocessor.get('mean'))
    except (
        ValueError,
        OSError,
        RuntimeError,
        AssertionError,
    ) as error:  # the hosts' data sets raise all of these
        return [f'the data set of {split} cannot be built: {error}']
    for leaf in leaves(dataset):
        print(
            f'{split}: {len(leaf)} samples of {leaf.metainfo.get("dataset_type", type(leaf).__name__)}'
        )
        faults += [
            *filter(None, [words_of_unlisted(leaf)]),
            *check(leaf, classes, jobs, split == 'train'),
        ]
    return faults


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('--split', choices=SPLITS, help='only this one (default: all that differ)')
    parser.add_argument(
        '--jobs', type=int, default=os.cpu_count() or 1, help='processes (default: one a core)'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=Options, help='KEY=VALUE … over the config'
    )
    args = parser.parse_args(arguments)
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    require_packages(cfg)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    splits = (
        [args.split]
        if args.split
        else [split for split in SPLITS if cfg.get(f'{split}_dataloader')]
    )
    if args.split and not cfg.get(f'{args.split}_dataloader'):
        parser.error(f'{args.config} has no {args.split}_dataloader')
    if (
        not args.split
        and 'val' in splits
        and 'test' in splits
        and cfg.test_dataloader == cfg.val_dataloader
    ):
        splits.remove('test')
    faults = [fault for split in splits for fault in check_split(cfg, split, args.jobs)]
    for fault in faults:
        print(f'fault: {fault}')
    print(f'{len(faults)} faults' if faults else 'nothing is wrong')
    return int(bool(faults))


if __name__ == '__main__':
    sys.exit(main())

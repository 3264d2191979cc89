"""Faults of all samples of a config's data sets."""

import sys
from array import array
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.utils import ProgressBar
from torch.utils.data import DataLoader, Dataset

from beit_mm.data.check_samples import check_samples, expect_channels
from beit_mm.data.image_files import MAX_PIXELS, BadSample
from beit_mm.data.image_folders import list_readable
from beit_mm.data.label_maps import IGNORE
from beit_mm.data.loaders import leaves, read_sample
from beit_mm.registry import DATASETS
from beit_mm.utils.config_tree import kind


class Reports(Dataset):
    """Data set of (path of the image, fault or None, number of pixels per class) per sample."""

    def __init__(self, leaf: BaseDataset, num_classes: int):
        self.leaf, self.num_classes = leaf, num_classes

    def __len__(self) -> int:
        return len(self.leaf)

    def __getitem__(self, index: int) -> tuple[str, str | None, np.ndarray | int]:
        path = str(self.leaf.get_data_info(index)['img_path'])
        try:
            results = read_sample(self.leaf, index)
        except BadSample as error:
            return path, str(error), 0
        labels = results.get('gt_seg_map', results.get('gt_label'))
        if labels is None or not self.num_classes:
            return path, None, 0
        counts = np.bincount(np.ravel(labels), minlength=max(self.num_classes, IGNORE))
        counts = counts[: self.num_classes]
        if 'gt_seg_map' in results and not counts.any():
            return path, f'{results["seg_map_path"]} has no labeled pixel, see docs/datasets.md', 0
        return path, None, counts


def check_split(cfg: Config, split: str, jobs: int) -> list[str]:
    """Return the faults of the data set of a split."""
    node, max_pixels = cfg[f'{split}_dataloader'].dataset, MAX_PIXELS
    if kind(node) == 'SeededDataset':  # it would stop at the first fault
        node, max_pixels = node.dataset, node.get('max_pixels', MAX_PIXELS)
    model = cfg.model.get('module', cfg.model)
    heads = model.get('head') or model.get('decode_head') or {}
    head = heads[-1] if isinstance(heads, list | tuple) else heads
    num_classes = head.get('num_classes')
    try:
        dataset = check_samples(DATASETS.build(list_readable(node)), max_pixels, num_classes)
        for leaf in leaves(dataset):
            if not len(leaf):
                raise ValueError(f'no images were found in {leaf.data_prefix}')
        preprocessor = cfg.get('data_preprocessor') or cfg.model.get('data_preprocessor') or {}
        expect_channels(dataset, preprocessor.get('mean'))
    except (ValueError, OSError, RuntimeError, AssertionError) as error:
        return [f'the data set of {split} cannot be built: {error}']
    faults = []
    for leaf in leaves(dataset):
        print(f'{split}: {len(leaf)} samples of {type(leaf).__name__}')
        faults += _check_leaf(leaf, num_classes, jobs, split == 'train')
    return faults


def _check_leaf(leaf: BaseDataset, num_classes: int | None, jobs: int, training: bool) -> list[str]:
    """Return the faults of a data set, and print its rarest and most frequent classes."""
    names = list(leaf.metainfo.get('classes') or ())[:num_classes]
    names += [str(number) for number in range(len(names), num_classes or 0)]
    reports, workers = Reports(leaf, len(names)), jobs if jobs > 1 else 0
    loader = DataLoader(reports, batch_size=32, num_workers=workers, collate_fn=list)
    faults, pixels, hashes = [], np.zeros(len(names), np.int64), array('q')
    bar = ProgressBar(len(leaf), file=sys.stderr)
    for batch in loader:
        for path, fault, counts in batch:
            hashes.append(hash(str(Path(path).with_suffix('')).lower()))
            faults += [fault] if fault else []
            pixels += counts
        bar.update(len(batch))
    print(file=sys.stderr)
    faults += _find_duplicates(leaf, np.array(hashes))
    if pixels.any():
        if training:
            absent = [name for name, number in zip(names, pixels, strict=True) if not number]
            faults += [f'the class {name!r} does not occur' for name in absent]
        order = np.argsort(pixels, kind='stable')
        for title, places in dict(rarest=order[:5], commonest=order[:-6:-1]).items():
            shares = (f'{names[i]} {pixels[i] / pixels.sum():.2%}' for i in places)
            print(f'{title} classes: {", ".join(shares)}')
    return faults


def _find_duplicates(leaf: BaseDataset, hashes: np.ndarray) -> list[str]:
    """Return images that are listed twice, or whose names differ only in case or suffix."""
    faults = []
    _, first, number = np.unique(hashes, return_index=True, return_counts=True)
    for place in sorted(first[number > 1]):
        same = np.flatnonzero(hashes == hashes[place]).tolist()
        paths = sorted({str(leaf.get_data_info(i)['img_path']) for i in same})
        if len(paths) > 1:
            faults.append(f'{" and ".join(paths)} differ only in case or suffix')
        else:
            faults.append(f'{paths[0]} is listed {len(same)} times')
    return faults

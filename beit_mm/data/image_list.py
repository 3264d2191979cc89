"""Data set of millions of images: the list file itself, mapped into memory, is the list."""

import copy
import os
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from mmengine.dataset import BaseDataset

from ..registry import DATASETS

NEWLINE, RETURN = b'\n\r'


@DATASETS.register_module()
class ImageList(BaseDataset):
    """Data set with the samples of mmpretrain's CustomDataset for a list file, without its memory.

    A line of `ann_file` is a path below `data_prefix` and, with `with_label`, a space and a class
    number. All processes of a machine share the pages of the file. In addition, each process needs
    16 bytes per image, which its workers share.
    """

    def __init__(
        self, ann_file: str, data_prefix: str | dict = '', with_label: bool = True, **kwargs
    ):
        self.with_label = with_label
        prefix = dict(img_path=data_prefix) if isinstance(data_prefix, str) else data_prefix
        super().__init__(ann_file=ann_file, data_prefix=prefix, **kwargs)

    def full_init(self) -> None:
        if self._fully_initialized:
            return
        advice = 'expected a list of images with one path per line'
        if not os.path.isfile(self.ann_file):
            raise FileNotFoundError(f'ann_file={self.ann_file} was not found: {advice}')
        if not os.path.getsize(self.ann_file):  # which cannot be mapped
            raise ValueError(f'ann_file={self.ann_file} is empty: {advice}')
        ends = np.flatnonzero(self._bytes == NEWLINE)
        if self._bytes[-1] != NEWLINE:
            ends = np.append(ends, len(self._bytes))
        starts = np.concatenate([[0], ends[:-1] + 1])
        ends = ends - ((ends > starts) & (self._bytes[ends - 1] == RETURN))
        self._lines = np.stack([starts, ends], 1)[ends > starts]
        if not len(self._lines):
            raise ValueError(f'ann_file={self.ann_file} has only blank lines: {advice}')
        self._fully_initialized = True
        if self._indices is not None:
            self.get_subset_(self._indices)

    @cached_property
    def _bytes(self) -> np.ndarray:
        return np.memmap(self.ann_file, np.uint8, 'r')

    def get_subset_(self, indices: Sequence[int] | int) -> None:
        self.full_init()
        if isinstance(indices, int):  # the first ones, or the last ones if it is negative
            indices = slice(indices) if indices >= 0 else slice(indices, None)
        self._lines = self._lines[indices]

    def get_subset(self, indices: Sequence[int] | int) -> 'ImageList':
        subset = copy.copy(self)
        subset.get_subset_(indices)
        return subset

    def __len__(self) -> int:
        self.full_init()
        return len(self._lines)

    def get_data_info(self, idx: int) -> dict:
        """Return `img_path`, `sample_idx` and, with labels, `gt_label`."""
        index = range(len(self))[idx]
        start, end = self._lines[index]
        name, info = os.fsdecode(self._bytes[start:end].tobytes()), {}
        if self.with_label:
            given = f'{self.ann_file}: the line {name!r} has no label'
            name, _, label = name.strip().rpartition(' ')
            if not label.isdecimal():
                expected = 'expected a path, a space and a class number'
                raise ValueError(f'{given}, {expected}. Add it, or set with_label=False')
            info['gt_label'] = int(label)
        path = os.path.join(self.data_prefix['img_path'], name)
        return dict(img_path=path, **info, sample_idx=index)

    def __getstate__(self) -> dict:
        """Drop the memory map, which would be copied; each process opens its own."""
        return {k: v for k, v in self.__dict__.items() if k != '_bytes'}

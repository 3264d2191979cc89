"""Data set of millions of images: the list file itself, mapped into memory, is the list."""

import os

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
        self.data_bytes = np.memmap(self.ann_file, np.uint8, 'r')

        ends = np.flatnonzero(self.data_bytes == NEWLINE)
        if self.data_bytes[-1] != NEWLINE:
            ends = np.append(ends, len(self.data_bytes))
        starts = np.concatenate([[0], ends[:-1] + 1])
        ends = ends - ((ends > starts) & (self.data_bytes[ends - 1] == RETURN))
        chosen = np.flatnonzero(ends > starts)
        if not len(chosen):
            raise ValueError(f'ann_file={self.ann_file} has only blank lines: {advice}')
        if isinstance(self._indices, int):
            count = self._indices
            chosen = chosen[:count] if count >= 0 else chosen[count:]
        elif self._indices is not None:
            chosen = chosen[self._indices]
        self._starts, self.data_address = starts[chosen], ends[chosen]
        self._fully_initialized = True

    def __len__(self) -> int:
        self.full_init()
        return len(self.data_address)

    def get_data_info(self, idx: int) -> dict:
        """Return `img_path`, `sample_idx` and, with labels, `gt_label`."""
        index = range(len(self))[idx]
        line = self.data_bytes[self._starts[index] : self.data_address[index]].tobytes()
        name, info = os.fsdecode(line), {}
        if self.with_label:
            name, _, label = name.strip().rpartition(' ')
            if not label.isdecimal():
                given = f'{self.ann_file}: the line {os.fsdecode(line)!r} has no label'
                expected = 'expected a path, a space and a class number'
                raise ValueError(f'{given}, {expected}. Add it, or set with_label=False')
            info['gt_label'] = int(label)
        path = os.path.join(self.data_prefix['img_path'], name)
        return dict(img_path=path, **info, sample_idx=index)

    def __getstate__(self) -> dict:
        return self.__dict__ | dict(data_bytes=None)  # pickled, a memory map becomes a copy

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        if self._fully_initialized:
            self.data_bytes = np.memmap(self.ann_file, np.uint8, 'r')

"""Millions of images from a list file: the file itself, mapped into memory, is the list. No object an image, nothing a worker."""

import os
from pathlib import Path

import numpy as np
from mmengine.dataset import BaseDataset

from ..registry import DATASETS

NEWLINE, RETURN = b'\n\r'


@DATASETS.register_module()
class ImageList(BaseDataset):
    """In place of mmpretrain's CustomDataset where `ann_file` names a list, and with the same samples.

    A line is a path under `data_prefix`, and with `with_label` a space and a class number. All processes of a machine share
    the file's pages; each has 16 bytes an image besides, which its workers share.

    Raises FileNotFoundError without the list, ValueError for an empty list or a line without a label.
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
        if not os.path.isfile(self.ann_file):
            raise FileNotFoundError(
                f'{self.ann_file} is not there: a list of images, a path a line'
            )
        if not os.path.getsize(self.ann_file):
            raise ValueError(f'{self.ann_file} is empty: it needs a path a line')
        self.data_bytes = np.memmap(self.ann_file, np.uint8, 'r')
        ends = np.flatnonzero(self.data_bytes == NEWLINE)
        if self.data_bytes[-1] != NEWLINE:
            ends = np.append(ends, len(self.data_bytes))
        starts = np.concatenate([[0], ends[:-1] + 1])
        ends = ends - ((ends > starts) & (self.data_bytes[ends - 1] == RETURN))
        kept = ends > starts
        self._starts, self.data_address = (
            (starts, ends) if kept.all() else (starts[kept], ends[kept])
        )
        if self._indices is not None:
            chosen = self._indices
            if isinstance(chosen, int):
                chosen = slice(None, chosen) if chosen >= 0 else slice(chosen, None)
            self._starts, self.data_address = self._starts[chosen], self.data_address[chosen]
        if not len(self.data_address):
            raise ValueError(f'no sample was found in {self.ann_file}: it needs a path a line')
        self._fully_initialized = True

    def __len__(self) -> int:
        self.full_init()
        return len(self.data_address)

    def get_data_info(self, idx: int) -> dict:
        """`img_path`, `sample_idx` and with labels `gt_label`."""
        self.full_init()
        index = range(len(self.data_address))[idx]
        line = self.data_bytes[self._starts[index] : self.data_address[index]].tobytes()
        name, info = os.fsdecode(line), {}
        if self.with_label:
            name, _, label = name.strip().rpartition(' ')
            if not label.isdecimal():
                raise ValueError(
                    f'{self.ann_file}: the line {os.fsdecode(line)!r} has no label behind a space: add it, or set '
                    'with_label=False'
                )
            info['gt_label'] = int(label)
        return dict(
            img_path=os.path.join(self.data_prefix['img_path'], name), **info, sample_idx=index
        )

    def __getstate__(self) -> dict:
        return self.__dict__ | dict(data_bytes=None)  # as a copy it would be as large as the file

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        if self._fully_initialized:
            self.data_bytes = np.memmap(Path(self.ann_file), np.uint8, 'r')

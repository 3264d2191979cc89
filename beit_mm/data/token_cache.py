"""Token cache: the visual tokens of some crops of every image, computed once, read by every run.

`tools/cache_tokens.py` writes a folder with these files:

    about.json   shape [crops, images, h, w], and what the ids depend on: tokenizer, seed, pipeline
    ids          uint16 [crops, images, h, w], little endian; readers map it into memory
    done         uint8 [crops, blocks]: 1 after the ids of a block of images are on disk
    names        uint32 [images]: CRC-32 of the last two parts of each path, so that the cache
                 remains valid if the folder of the images is moved
    probe.npy    uint8 [n, 3, H, W]: some token views, to check that a run makes the same crops
"""

import json
import math
import mmap
import os
import shutil
import uuid
import zlib
from collections.abc import Sequence
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from ..utils.installation import command

BLOCK = 256  # images that are written and marked as done together
NAMES_CHECKED = 1000  # when a cache is opened; every other name is checked when it is read
MAX_PROBE_DIFFERENCE = 2.0  # mean gray levels, which another version of a decoder can cause
COMMAND = f'{command("cache_tokens")} CONFIG --out'


class TokenCache:
    """A token cache on disk. Raises FileNotFoundError if `path` has none."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not (self.path / 'about.json').is_file():
            raise FileNotFoundError(f'{path} has no token cache. Create one: `{COMMAND} {path}`')
        self.about = json.loads((self.path / 'about.json').read_text())
        self.shape = tuple(self.about['shape'])
        self.num_crops, self.images, *self.grid = self.shape

    @classmethod
    def create(
        cls, path: str | Path, grid: Sequence[int], tokenizer: dict, dataset: Dataset
    ) -> 'TokenCache':
        """Create an empty cache, or open the one that another process creates at the same time.

        `tokenizer` says what the ids of a SeededDataset depend on in addition to `dataset.about`.
        """
        path, num_crops, images = Path(path), dataset.num_crops, len(dataset)
        draft = path.with_name(f'.{path.name}.{uuid.uuid4().hex}')
        draft.mkdir(parents=True)
        shape = [num_crops, images, *grid]
        for name, size in dict(ids=2 * math.prod(shape), done=num_crops * _blocks(images)).items():
            with open(draft / name, 'wb') as file:
                file.truncate(size)  # zeros, which need no space before they are written
        names = (_hash_name(dataset.path_of(index)) for index in range(images))
        np.fromiter(names, '<u4', images).tofile(draft / 'names')
        np.save(draft / 'probe.npy', dataset.token_views(probe_keys(num_crops, images)))
        about = dict(shape=shape, **tokenizer, **dataset.about)
        (draft / 'about.json').write_text(json.dumps(about, indent=1))
        try:
            draft.rename(path)
        except OSError:
            shutil.rmtree(draft)
            if not (path / 'about.json').is_file():
                raise
        return cls(path)

    # -- checks ------------------------------------------------------------------------------------

    def check(self, about: dict) -> None:
        """Raise ValueError if a run has another tokenizer, seed or pipeline, where given."""
        for key, value in about.items():
            if self.about[key] != value:
                self._refuse(f'{key}: {_describe_difference(self.about[key], value)}')

    def check_dataset(self, dataset: Dataset) -> None:
        """Raise ValueError if a SeededDataset makes other crops, or of other images.

        Some paths are checked here, the others in `read`.
        """
        self.check(dataset.about)
        if len(dataset) != self.images:
            self._refuse(f'list: it has {self.images} images, the data set {len(dataset)}')
        places = np.linspace(0, self.images - 1, NAMES_CHECKED).astype(int)
        for index in np.unique(places).tolist():
            self._check_name(index, dataset.path_of(index))
        views = dataset.token_views(probe_keys(self.num_crops, self.images))
        probe = np.load(self.path / 'probe.npy').astype(int)
        difference = np.abs(probe - views).mean((1, 2, 3)).max()
        if difference > MAX_PROBE_DIFFERENCE:
            given = (
                f'pipeline: it is the same, but its crops differ by {difference:.0f} gray levels'
            )
            self._refuse(f'{given}: the images have changed, or a transform draws other numbers')

    def check_finished(self) -> None:
        if missing := len(self.list_missing()):
            total = self.num_crops * _blocks(self.images)
            given = f'{self.path} is not finished: {missing} of {total} blocks are missing'
            raise ValueError(f'{given}. Continue with `{COMMAND} {self.path}`')

    def _check_name(self, index: int, path: str) -> None:
        if self._names[index] != _hash_name(path):
            self._refuse(f'list: {path} is not its image {index}')

    def _refuse(self, reason: str) -> None:
        advice = f'Change this back, or create another cache: `{COMMAND} OTHER_FOLDER`'
        raise ValueError(f'the token cache {self.path} does not fit this run. {reason}. {advice}')

    # -- ids ---------------------------------------------------------------------------------------

    def read(self, crop: int, index: int, path: str) -> np.ndarray:
        """Return the ids, int64 [h, w], of a crop of image `index`, which must be `path`."""
        self._check_name(index, path)
        return self._ids[crop, index].astype(np.int64)

    def list_missing(self) -> np.ndarray:
        """Return (crop, block) of the missing blocks of images, int [n, 2]."""
        done = np.fromfile(self.path / 'done', np.uint8).reshape(self.num_crops, -1)
        return np.argwhere(done == 0)

    def write(self, crop: int, block: int, ids: np.ndarray) -> None:
        """Write the ids [n, h, w] of a block to the disk, then mark it as done.

        Several machines can write at once, since no memory map is involved.
        """
        image = crop * self.images + block * BLOCK
        _write(self.path / 'ids', 2 * image * math.prod(self.grid), ids.astype('<u2').tobytes())
        _write(self.path / 'done', crop * _blocks(self.images) + block, b'\1')

    @cached_property
    def _ids(self) -> np.ndarray:
        ids = np.memmap(self.path / 'ids', '<u2', 'r', shape=self.shape)
        if hasattr(mmap, 'MADV_RANDOM'):  # reads are shuffled
            ids._mmap.madvise(mmap.MADV_RANDOM)
        return ids

    @cached_property
    def _names(self) -> np.ndarray:
        return np.memmap(self.path / 'names', '<u4', 'r', shape=(self.images,))

    def __getstate__(self) -> dict:
        """Drop the memory maps, which would be copied; each process opens its own."""
        return {k: v for k, v in self.__dict__.items() if k not in ('_ids', '_names')}


def probe_keys(num_crops: int, images: int, number: int = 4) -> list[tuple[int, int]]:
    """Return (crop, index) of a few crops, evenly spread."""
    steps = number - 1
    return [(k * (num_crops - 1) // steps, k * (images - 1) // steps) for k in range(number)]


def _blocks(images: int) -> int:
    return math.ceil(images / BLOCK)


def _hash_name(path: str) -> int:
    ends = path.replace(os.sep, '/').rsplit('/', 2)[-2:]
    return zlib.crc32('/'.join(ends).encode(errors='surrogateescape'))


def _write(path: Path, offset: int, content: bytes) -> None:
    """Write into an existing file and flush it to the disk."""
    with open(path, 'r+b') as file:
        file.seek(offset)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _describe_difference(cached: object, given: object) -> str:
    """Say what differs; of two lists, the first elements that differ."""
    if isinstance(cached, list) and isinstance(given, list):
        for pair in zip_longest(cached, given):
            if pair[0] != pair[1]:
                return _describe_difference(*pair)
    return f'the cache has {cached}, the run {given}'

"""Visual tokens on disk: the ids of some crops of every image, computed once by `tools/cache_tokens.py` and read by every run.

A cache is a folder of
    about.json   shape [views, images, h, w] and what the ids are of: tokenizer, seed, pipeline
    ids          uint16 [views, images, h, w], little endian; readers map it into memory
    done         uint8 [views, blocks]: 1 where a block of images is on disk; written behind its ids
    names        uint32 [images]: CRC-32 of the last two parts of each path, so that a cache can be moved with its images
    probe.npy    uint8 [n, 3, H, W]: a few token views, to see that the same crops are still made
"""

import json
import mmap
import os
import shutil
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

BLOCK = 256  # images that are written and marked as done together
LOOKS = 1000  # names that are compared when a cache is opened; the others when they are read
CLOSE = 2.0  # grey levels by which another decoder's or library's token views may differ on average


class TokenCache:
    """A cache that is there. Raises FileNotFoundError where there is none."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not (self.path / 'about.json').is_file():
            raise FileNotFoundError(
                f'{path} is no token cache: make it with `python tools/cache_tokens.py CONFIG --out {path}`'
            )
        self.about = json.loads((self.path / 'about.json').read_text())
        self.num_crops, self.images, *self.grid = self.about['shape']
        self._maps: dict[str, np.ndarray] = {}

    @classmethod
    def create(
        cls,
        path: str | Path,
        shape: Sequence[int],
        about: dict,
        paths: Sequence[str],
        probe: np.ndarray,
    ) -> 'TokenCache':
        """An empty one of `shape` [views, images, h, w], or the one that another process has made meanwhile.

        `about`: JSON that a run has to agree with (`check`). It appears at once and whole.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        views, images, *grid = shape
        draft = Path(tempfile.mkdtemp(prefix=f'.{path.name}.', dir=path.parent))
        try:
            for name, size in (('ids', 2 * int(np.prod(shape))), ('done', views * _blocks(images))):
                with open(draft / name, 'wb') as file:
                    file.truncate(size)  # takes no room until it is written
            np.fromiter(map(_name, paths), '<u4', images).tofile(draft / 'names')
            np.save(draft / 'probe.npy', probe)
            (draft / 'about.json').write_text(
                json.dumps(dict(shape=[views, images, *grid], **about), indent=1)
            )
            draft.chmod(0o777 & ~_umask())
            draft.rename(path)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)
            if not (path / 'about.json').is_file():
                raise
        return cls(path)

    # -- what it is of -------------------------------------------------------------------------------------------------

    def check(self, about: dict, paths: Sequence[str] | None = None) -> None:
        """ValueError that says what differs where this cache is of another tokenizer, list of images, pipeline or seed.

        Args:
            about: as given to `create`; keys that are not there are not compared.
            paths: of all images, of which some are looked at here, and each one in `read`.
        """
        differ = []
        for key, value in about.items():
            if self.about[key] != value:
                differ.append(f'{key}: {_difference(self.about[key], value)}')
        if paths is not None and len(paths) != self.images:
            differ.append(f'list: it has {self.images} images, the data set {len(paths)}')
        elif paths is not None:
            for index in np.unique(np.linspace(0, self.images - 1, LOOKS).astype(int)).tolist():
                if self._map('names')[index] != _name(paths[index]):
                    differ.append(f'list: {paths[index]} is not the image at place {index}')
                    break
        if differ:
            self._refuse('; '.join(differ))

    def check_views(self, views: np.ndarray) -> None:
        """ValueError where the token views of `probe_keys` are other ones, though all that is said of them is equal."""
        apart = np.abs(np.load(self.path / 'probe.npy').astype(int) - views).mean((1, 2, 3))
        if (apart > CLOSE).any():
            self._refuse(
                f'pipeline: it says the same and makes other crops ({apart.max():.0f} grey levels apart): other images under '
                'the same names, or a transform that draws otherwise than it did'
            )

    def check_finished(self) -> None:
        if missing := len(self.todo()):
            of = self.num_crops * _blocks(self.images)
            raise ValueError(
                f'{self.path} is not finished: {missing} of {of} blocks are missing. The command that made it goes on: '
                f'`python tools/cache_tokens.py CONFIG --out {self.path}`'
            )

    def probe_keys(self) -> list[tuple[int, int]]:
        return probe_keys(self.num_crops, self.images)

    def _refuse(self, reason: str) -> None:
        raise ValueError(
            f'the token cache {self.path} is of something else. {reason}. Set this back, or make another cache: '
            '`python tools/cache_tokens.py CONFIG --out OTHER_FOLDER`'
        )

    # -- ids -----------------------------------------------------------------------------------------------------------

    def read(self, view: int, index: int, path: str) -> np.ndarray:
        """Ids int64 [h, w] of a view of the image at `index`, which must be `path`."""
        if self._map('names')[index] != _name(path):
            self._refuse(f'list: {path} is not the image at place {index}')
        return self._map('ids')[view, index].astype(np.int64)

    def todo(self) -> np.ndarray:
        """(view, block) that are missing, int [n, 2]; block b holds the images from b·BLOCK to (b + 1)·BLOCK."""
        return np.argwhere(
            np.fromfile(self.path / 'done', np.uint8).reshape(self.num_crops, -1) == 0
        )

    def write(self, view: int, block: int, ids: np.ndarray) -> None:
        """Store a block's ids [n, h, w] and mark it as done, in this order on the disk as well.

        Several processes and machines may write at once: not by mapped memory, whose pages would be shared.
        """
        place = (view * self.images + block * BLOCK) * int(np.prod(self.grid)) * 2
        _put(self.path / 'ids', place, ids.astype('<u2').tobytes())
        _put(self.path / 'done', view * _blocks(self.images) + block, b'\1')

    def _map(self, name: str) -> np.ndarray:
        """Opened by each process itself, at its first use: a pickled memory map would be a copy of the file."""
        if name not in self._maps:
            kind, shape = dict(
                ids=('<u2', tuple(self.about['shape'])), names=('<u4', (self.images,))
            )[name]
            self._maps[name] = np.memmap(self.path / name, kind, 'r', shape=shape)
            if name == 'ids' and hasattr(mmap, 'MADV_RANDOM'):
                self._maps[name]._mmap.madvise(
                    mmap.MADV_RANDOM
                )  # the order is shuffled: do not read ahead
        return self._maps[name]

    def __getstate__(self) -> dict:
        return self.__dict__ | dict(_maps={})


def probe_keys(views: int, images: int, number: int = 4) -> list[tuple[int, int]]:
    """(view, index) of a few crops, spread over all."""
    return [
        (k * (views - 1) // (number - 1), k * (images - 1) // (number - 1)) for k in range(number)
    ]


def _blocks(images: int) -> int:
    return -(-images // BLOCK)


def _name(path: str) -> int:
    ends = path.replace(os.sep, '/').rsplit('/', 2)[-2:]
    return zlib.crc32('/'.join(ends).encode(errors='surrogateescape'))


def _put(path: Path, place: int, content: bytes) -> None:
    file = os.open(path, os.O_WRONLY)
    try:
        done = 0
        while done < len(content):
            done += os.pwrite(file, content[done:], place + done)
        os.fsync(file)
    finally:
        os.close(file)


def _difference(was: object, now: object) -> str:
    if isinstance(was, list) and isinstance(now, list):
        pairs = [(a, b) for a, b in zip(was, now, strict=False) if a != b]
        was, now = pairs[0] if pairs else (f'{len(was)} steps', f'{len(now)} steps')
        if isinstance(was, list) or isinstance(now, list):
            return _difference(was, now)
    return f'the cache has {was}, the run {now}'


def _umask() -> int:
    os.umask(mask := os.umask(0))
    return mask

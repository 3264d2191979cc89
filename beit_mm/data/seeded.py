"""Randomness of the data is a function of (seed, epoch, sample): for any data set, pipeline and number of workers."""

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.logging import print_log
from torch.utils.data import Dataset, Sampler

from ..registry import DATA_SAMPLERS, DATASETS
from ..settings import finite, one_of, whole
from .guard import guard
from .reading import MAX_PIXELS, BadSample


def seed_all(*key: int) -> int:
    """Make the global generators of python, NumPy and torch's CPU a function of `key`; gives torch's seed, for a device's."""
    python, numpy, seed = map(int, np.random.SeedSequence(key).generate_state(3))
    random.seed(python)
    np.random.seed(numpy)
    torch.default_generator.manual_seed(seed)
    return seed


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Inside, the global generators of python, NumPy and torch's CPU are a function of `key`; afterwards as before."""
    python, numpy, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed_all(*key)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_state)


@DATASETS.register_module()
class SeededDataset(Dataset):
    """Any OpenMMLab data set whose transforms draw from (seed, epoch, index) and whose files are guarded (`guard`).

    `KeyedSampler` hands out (epoch, index); with another sampler's plain indices the epoch is 0 (validation).

    Args:
        on_bad_sample: `raise` BadSample, which names the file; or `skip` to another sample, a function of (seed, epoch,
            index) too, and log the file, once in a run.
        max_bad_share: `skip` stops the run with a ValueError when more than this share of the data set is bad. The workers
            of a process count together, the processes of a distributed run each for itself.
        max_pixels: larger images are bad.

    Raises ValueError when the data set is empty.
    """

    def __init__(
        self,
        dataset: dict,
        seed: int = 0,
        on_bad_sample: str = 'raise',
        max_bad_share: float = 0.01,
        max_pixels: int = MAX_PIXELS,
    ):
        whole(0, seed=seed)
        whole(1, max_pixels=max_pixels)
        one_of(('raise', 'skip'), on_bad_sample=on_bad_sample)
        finite(0, max_bad_share=max_bad_share)
        if max_bad_share >= 1:
            raise ValueError(f'max_bad_share={max_bad_share}: a share of 0 up to, not including, 1 is possible')
        self.seed, self.skip, self.max_bad_share = seed, on_bad_sample == 'skip', max_bad_share
        try:
            self.dataset = DATASETS.build(dataset)
            empty = not len(self.dataset)
        except (RuntimeError, ValueError) as error:  # how the hosts' data sets say it, without the place
            empty = any(words in str(error) for words in ('Found 0 files', 'need at least one array'))
            if not empty:
                raise
        if empty:
            place = {key: dataset[key] for key in ('data_root', 'data_prefix', 'ann_file') if dataset.get(key)}
            raise ValueError(f'no sample was found in {place or dataset}: check the paths, and that images are there')
        guard(self.dataset, max_pixels)
        self.bad = torch.zeros(
            len(self.dataset) if self.skip else 0, dtype=torch.bool
        ).share_memory_()  # by all workers

    @property
    def metainfo(self) -> dict:
        return self.dataset.metainfo

    def __len__(self) -> int:
        return len(self.dataset)

    def get_data_info(self, index: int) -> dict:
        return self.dataset.get_data_info(index)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        others = None
        while True:
            try:
                with seeded(self.seed, epoch, index):
                    return self.dataset[index]
            except BadSample as error:
                if not self.skip:
                    raise
                self._note(index, error)
            others = others or np.random.default_rng((self.seed, epoch, index))
            index = int(others.integers(len(self)))

    def _note(self, index: int, error: BadSample) -> None:
        if self.bad[index]:
            return
        self.bad[index] = True
        print_log(f'skipped: {error}', 'current', logging.WARNING)
        if (count := int(self.bad.sum())) > self.max_bad_share * len(self):
            raise ValueError(
                f'{count} of {len(self)} samples are bad, more than max_bad_share={self.max_bad_share} allows; the last: '
                f'{error}. List all with `python tools/check_data.py CONFIG`'
            )


@DATA_SAMPLERS.register_module()
class KeyedSampler(Sampler):
    """Hands (epoch, index) to a `SeededDataset`; ranks take turns, so a global batch does not depend on their number.

    Args:
        infinite: never end (IterBasedTrainLoop): epoch after epoch. Otherwise one epoch, `set_epoch` chooses which, and
            the last indices are repeated until ranks have equally many.
    """

    def __init__(self, dataset: Dataset, shuffle: bool = True, seed: int | None = None, infinite: bool = False):
        if seed is not None:
            whole(0, seed=seed)
        self.rank, self.world_size = get_dist_info()
        self.size, self.shuffle, self.infinite = len(dataset), shuffle, infinite
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = self.start = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = 0 if self.infinite else epoch

    def skip(self, num_samples: int) -> None:
        """Begin the next iteration, and only that one, behind this rank's first `num_samples` draws, without making them."""
        self.start = num_samples

    def __len__(self) -> int:
        return -(-self.size // self.world_size)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        draw, self.start = self.rank + self.start * self.world_size, 0
        end = None if self.infinite else len(self) * self.world_size
        order, order_of = None, None
        while end is None or draw < end:
            epoch, place = (divmod(draw, self.size)) if self.infinite else (self.epoch, draw % self.size)
            if order_of != epoch:
                order, order_of = self._order(epoch), epoch
            yield epoch, int(order[place])
            draw += self.world_size

    def _order(self, epoch: int) -> np.ndarray:
        return (
            np.random.default_rng((self.seed, epoch)).permutation(self.size) if self.shuffle else np.arange(self.size)
        )

"""Random numbers as a function of a key, and the sampler that gives each sample its key."""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Dataset, Sampler, get_worker_info

from ..registry import DATA_SAMPLERS
from ..utils.arguments import check_integers


def seed_all(*key: int) -> int:
    """Seed Python, NumPy and torch's CPU. Returns the seed of torch, for other devices."""
    python, numpy, seed = map(int, np.random.SeedSequence(key).generate_state(3))
    random.seed(python)
    np.random.seed(numpy)
    torch.default_generator.manual_seed(seed)
    return seed


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed the global generators by a key inside the `with` block, and restore them afterwards.

    Workers of a DataLoader do not restore them: nothing else in a worker draws random numbers, and
    restoring takes six times as long as seeding.
    """
    if get_worker_info():
        seed_all(*key)
        yield
        return
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed_all(*key)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@DATA_SAMPLERS.register_module()
class KeyedSampler(Sampler):
    """Sampler of keys (epoch, index) for `SeededDataset`.

    Ranks take turns, so a global batch does not depend on the number of ranks. With `infinite`, for
    IterBasedTrainLoop, one epoch follows another. Otherwise the sampler ends after the epoch of
    `set_epoch`, and repeats the first indices until all ranks have the same number.
    """

    def __init__(
        self,
        dataset: Dataset,
        shuffle: bool = True,
        seed: int | None = None,
        infinite: bool = False,
    ):
        if seed is not None:
            check_integers(0, seed=seed)
        self.rank, self.world_size = get_dist_info()
        self.size, self.shuffle, self.infinite = len(dataset), shuffle, infinite
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = self.start = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = 0 if self.infinite else epoch

    def skip(self, num_samples: int) -> None:
        """Start the next iteration, and only that one, after `num_samples` samples of this rank."""
        self.start = num_samples

    def __len__(self) -> int:
        return math.ceil(self.size / self.world_size)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        position, self.start = self.rank + self.start * self.world_size, 0
        end = math.inf if self.infinite else len(self) * self.world_size
        order, order_epoch = None, None
        while position < end:
            cycle, place = divmod(position, self.size)
            epoch = cycle if self.infinite else self.epoch
            if order_epoch != epoch:
                order, order_epoch = self._order(epoch), epoch
            yield epoch, int(order[place])
            position += self.world_size

    def _order(self, epoch: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(self.size)
        return np.random.default_rng((self.seed, epoch)).permutation(self.size)

"""Sampler that hands out (epoch, index), so that a sample can depend on its epoch."""

import math
from collections.abc import Iterator

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Dataset, Sampler

from ..registry import DATA_SAMPLERS
from ..utils.arguments import check_integers


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

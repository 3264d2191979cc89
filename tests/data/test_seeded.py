"""A sample depends on (seed, epoch, index) and on nothing else."""

import random

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from torch.utils.data import Dataset

from beit_mm.data.seeded import KeyedSampler, seeded
from beit_mm.data.seeded_dataset import SeededDataset
from beit_mm.registry import DATASETS

N = 10


@DATASETS.register_module()
class Draws(Dataset):
    """Sample i is (i, a draw of the global generator of Python, NumPy and torch)."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple:
        return index, random.random(), float(np.random.rand()), torch.rand(()).item()


def draws(seed: int = 0) -> SeededDataset:
    return SeededDataset(dict(type='Draws'), seed=seed)


def loaded(num: int, infinite: bool, **workers) -> list[tuple]:
    """Return the first `num` samples of mmengine's loader, in one stream or in epochs."""
    config = dict(
        batch_size=2,
        dataset=draws(),
        sampler=dict(type='beit_mm.KeyedSampler', seed=0, infinite=infinite),
        collate_fn=dict(type='pseudo_collate'),
        **workers,
    )
    loader = Runner.build_dataloader(config, seed=workers['num_workers'])  # must not matter
    found, epoch = [], 0
    while len(found) < num:
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            found += zip(*batch, strict=True)
            if len(found) >= num:
                break
        epoch += 1
    return found


def test_a_sample_is_a_function_of_seed_epoch_and_index():
    first = [draws()[0, i] for i in range(N)]
    torch.manual_seed(5)
    again = [draws()[0, i] for i in reversed(range(N))][::-1]
    assert first == again == [draws()[i] for i in range(N)]  # a plain index is epoch 0
    others = [[draws()[1, i] for i in range(N)], [draws(seed=1)[0, i] for i in range(N)]]
    values = [value for samples in (first, *others) for sample in samples for value in sample[1:]]
    assert len(set(values)) == 3 * N * 3  # epochs, seeds, samples and generators all differ


@pytest.mark.parametrize('infinite', [True, False])
def test_three_epochs_are_the_same_for_any_number_of_workers(infinite):
    alone = loaded(3 * N, infinite, num_workers=0)
    assert len({sample[1:] for sample in alone}) == 3 * N
    for epoch in range(3):
        assert sorted(s[0] for s in alone[epoch * N : (epoch + 1) * N]) == list(range(N))
    assert loaded(3 * N, infinite, num_workers=2) == alone
    assert loaded(3 * N, infinite, num_workers=2, persistent_workers=True) == alone


def test_the_callers_generators_are_restored():
    def state() -> tuple:
        return random.random(), np.random.rand(), torch.rand(()).item()

    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = state(), state()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    before = state()
    draws()[3, 1]
    with pytest.raises(ZeroDivisionError), seeded(0):
        random.random() / 0
    assert (before, state()) == expected


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seed: int | None, epoch: int) -> tuple:
        sampler = KeyedSampler(range(N), seed=seed)
        sampler.set_epoch(epoch)
        return tuple(index for _, index in sampler)

    assert order(0, 0) == order(0, 0)
    assert len({order(seed, epoch) for seed in range(3) for epoch in range(3)}) == 9
    assert order(None, 0) != order(None, 0)


def test_a_long_skip_costs_nothing():
    resumed = KeyedSampler(range(1_300_000), seed=0, infinite=True)
    resumed.skip(10**12)
    assert next(iter(resumed))[0] == 10**12 // 1_300_000

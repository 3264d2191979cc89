"""What happens to a sample depends on (seed, epoch, index) and on nothing else."""

import random
from itertools import islice
from typing import ClassVar

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, Compose
from mmengine.runner import Runner
from torch.utils.data import Dataset

from beit_mm.data.keyed_sampler import KeyedSampler
from beit_mm.data.seeded import seeded
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


def sampler(rank: int = 0, world_size: int = 1, size: int = N, **kwargs) -> KeyedSampler:
    found = KeyedSampler(range(size), **dict(seed=0) | kwargs)
    found.rank, found.world_size = rank, world_size
    return found


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


def test_a_real_pipeline_follows_the_key(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(3):
        path = tmp_path / 'ab'[i % 2] / f'{i}.png'
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (40, 40, 3), np.uint8))
    pipeline = [
        dict(type='mmcv.LoadImageFromFile'),
        dict(type='mmpretrain.ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4),
        dict(type='mmcv.RandomFlip', prob=0.5),
        dict(type='TwoViews', size=32, token_size=16),
        dict(type='BlockwiseMask', grid=4, num_masked=6, min_block=2),
        dict(type='PackViews'),
    ]
    config = dict(type='mmpretrain.CustomDataset', data_root=str(tmp_path), pipeline=pipeline)
    one, two = (SeededDataset(dict(config, _scope_='beit_mm')) for _ in range(2))
    for key in ((0, 0), (1, 0), (0, 2)):
        for name, value in one[key]['inputs'].items():
            assert torch.equal(value, two[key]['inputs'][name])
    assert not torch.equal(one[0, 0]['inputs']['patch_view'], one[1, 0]['inputs']['patch_view'])


# -- order -------------------------------------------------------------------------------------------


@pytest.mark.parametrize('shuffle', [True, False])
def test_the_global_batch_does_not_depend_on_the_number_of_ranks(shuffle):
    alone = list(islice(sampler(infinite=True, shuffle=shuffle), 40))
    for ranks in (2, 4):
        samplers = [sampler(rank, ranks, infinite=True, shuffle=shuffle) for rank in range(ranks)]
        parts = [islice(each, 40 // ranks) for each in samplers]
        assert [key for step in zip(*parts, strict=True) for key in step] == alone
    assert [epoch for epoch, _ in alone] == [i // N for i in range(40)]
    orders = [tuple(index for e, index in alone if e == epoch) for epoch in range(4)]
    assert all(sorted(order) == list(range(N)) for order in orders)
    assert len(set(orders)) == (4 if shuffle else 1)


def test_a_long_skip_costs_nothing():
    resumed = sampler(size=1_300_000, infinite=True)
    resumed.skip(10**12)
    assert next(iter(resumed))[0] == 10**12 // 1_300_000


@pytest.mark.parametrize('world_size', [1, 2, 3, 4, 7, 16])
def test_an_epoch_gives_each_rank_the_same_number_and_all_indices(world_size):
    for epoch in (0, 3):
        keys = []
        for rank in range(world_size):
            own = sampler(rank, world_size)
            own.set_epoch(epoch)
            keys.append(list(own))
            assert len(keys[-1]) == len(own) == -(-N // world_size)
        flat = [key for step in zip(*keys, strict=True) for key in step]
        assert sorted(flat[:N]) == [(epoch, i) for i in range(N)]
        assert flat[N:] == (flat[:N] * 2)[: len(flat) - N]  # the padding repeats the first


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seed: int, epoch: int) -> tuple:
        own = sampler(seed=seed)
        own.set_epoch(epoch)
        return tuple(index for _, index in own)

    assert order(0, 0) == order(0, 0)
    assert len({order(seed, epoch) for seed in range(3) for epoch in range(3)}) == 9
    drawn = [KeyedSampler(range(N)) for _ in range(2)]
    assert drawn[0].seed != drawn[1].seed


# -- tools of mmpretrain and mmseg -------------------------------------------------------------------


class Listed(BaseDataset):
    """Sample i is the result of its pipeline."""

    METAINFO: ClassVar = dict(classes=('a', 'b'))

    def load_data_list(self) -> list[dict]:
        return [dict(img_path=f'{i}.png', gt_label=i % 2) for i in range(N)]


def test_a_subset_and_another_pipeline_are_those_of_the_wrapped_data_set():
    DATASETS.register_module(module=Listed, force=True)
    steps = [lambda info: (info['img_path'], random.random())]
    whole = SeededDataset(dict(type='Listed', pipeline=[]), pipeline=steps)
    part = whole.get_subset([7, 3])
    assert isinstance(part, SeededDataset) and len(part) == 2 and len(whole) == N
    assert [part[i][0] for i in range(2)] == ['7.png', '3.png']
    assert part[0][1] == whole[0][1] and part[0, 0] != part[1, 0]  # still seeded
    whole.pipeline = Compose([lambda info: info['img_path']])
    assert whole[3] == '3.png' and whole.pipeline.transforms
    assert whole.METAINFO == whole.metainfo == dict(classes=('a', 'b'))
    assert whole.get_data_info(3)['img_path'] == '3.png'
    with pytest.raises(AttributeError):
        _ = whole.nothing

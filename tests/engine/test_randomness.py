"""What is random in the model is a function of (seed, rank, iteration), whatever was drawn before."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config

from beit_mm.data.seeded import seeded
from beit_mm.engine import ExactResume, KeyedRandomness
from beit_mm.engine.launch import build_runner


def draws(seed: int, iteration: int) -> tuple[float, float, float]:
    KeyedRandomness().before_train_iter(SimpleNamespace(seed=seed, iter=iteration), 0)
    return random.random(), float(np.random.rand()), torch.rand(()).item()


def test_an_iterations_draws_follow_from_seed_and_iteration_and_all_differ():
    first = {key: draws(*key) for key in np.ndindex(3, 50)}
    torch.manual_seed(5)
    assert {key: draws(*key) for key in reversed(first)} == first
    assert len({value for values in first.values() for value in values}) == 3 * 50 * 3


def test_no_sample_shares_the_draws_of_an_iteration():
    model = {draws(0, i)[2] for i in range(50)}
    for epoch, index in np.ndindex(3, 50):
        with seeded(0, epoch, index):
            assert torch.rand(()).item() not in model


@pytest.mark.skipif(not torch.cuda.is_available(), reason='of a GPU')
def test_a_gpus_generator_is_keyed_too():
    KeyedRandomness().before_train_iter(SimpleNamespace(seed=0, iter=3), 0)
    first = torch.rand(9, device='cuda')
    torch.rand(9, device='cuda')
    KeyedRandomness().before_train_iter(SimpleNamespace(seed=0, iter=3), 0)
    assert torch.equal(torch.rand(9, device='cuda'), first)


def test_every_run_has_the_hooks_once_and_they_come_before_what_they_serve(tmp_path, unformatted):
    cfg = Config(dict(work_dir=str(tmp_path), model=torch.nn.Linear(1, 1)))
    for known in (None, [dict(type='beit_mm.KeyedRandomness')]):
        cfg.custom_hooks = known
        cfg.experiment_name = f'hooks_{known is None}'
        names = [type(hook) for hook in build_runner(cfg).hooks]
        assert names.count(KeyedRandomness) == names.count(ExactResume) == 1
        assert names[0] is KeyedRandomness

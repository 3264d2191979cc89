"""β and τ are functions of the iteration."""

import math
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from beit_mm.engine import Anneal
from beit_mm.engine.hooks.anneal import cosine


def test_half_a_cosine():
    assert (
        cosine(0, 6.6, 5000, 0) == 0
        and cosine(0, 6.6, 5000, 5000) == cosine(0, 6.6, 5000, 9999) == 6.6
    )
    assert cosine(1, 1 / 16, 150_000, 75_000) == pytest.approx((1 + 1 / 16) / 2)
    assert cosine(1, 0, 100, 25) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    values = [cosine(1, 1 / 16, 50, i) for i in range(51)]
    assert (
        values == sorted(values, reverse=True) and values[0] - values[1] < 1e-3
    )  # flat at both ends
    assert max(abs(a + b - 1 - 1 / 16) for a, b in zip(values, values[::-1], strict=True)) < 1e-12


class Toy(BaseModel):
    """Notes the value that each iteration's loss is made with."""

    def __init__(self):
        super().__init__()
        self.weight, self.beta, self.seen = torch.nn.Parameter(torch.zeros(1)), 0.0, []

    def forward(self, inputs: torch.Tensor, mode: str = 'tensor', **kwargs) -> dict:
        self.seen.append(self.beta)
        return dict(loss=self.weight.sum())


def train(folder, iters: int, resume: bool = False) -> list[float]:
    """The values of β that a Runner's iterations saw."""
    runner = Runner(
        model=Toy(),
        work_dir=str(folder),
        train_dataloader=DataLoader([dict(inputs=torch.zeros(1))] * iters, batch_size=1),
        train_cfg=dict(by_epoch=False, max_iters=iters),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=[Anneal('beta', 0.0, 6.6, 4)],
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=3, by_epoch=False)),
        resume=resume,
        experiment_name=f'{folder.name}_{iters}_{resume}',
    )
    return runner.train().seen


def test_a_run_that_is_resumed_sees_the_values_of_one_that_was_not(tmp_path):
    whole = [cosine(0, 6.6, 4, i) for i in range(6)]
    assert train(tmp_path, 3) == whole[:3]
    assert train(tmp_path, 6, resume=True) == whole[3:]


def test_the_model_inside_a_wrapper_is_meant():
    model = Toy()
    wrapper = MMDistributedDataParallel.__new__(
        MMDistributedDataParallel
    )  # without a process group
    torch.nn.Module.__init__(wrapper)
    wrapper.module = model
    Anneal('beta', 1.0, 3.0, 10).before_train_iter(SimpleNamespace(model=wrapper, iter=5), 0)
    assert model.beta == pytest.approx(2) and 'beta' not in vars(wrapper)


@pytest.mark.parametrize('attribute', ['betta', 'weight', 'train'])
def test_a_model_without_that_number_is_an_error_before_the_first_iteration(attribute):
    with pytest.raises(ValueError, match=f"Toy has no number '{attribute}' to anneal"):
        Anneal(attribute, 0, 1, 10).before_train(SimpleNamespace(model=Toy()))


def test_no_iterations_are_an_error():
    with pytest.raises(ValueError, match='iters=0: expected an integer, at least 1'):
        Anneal('beta', 0, 1, 0)

"""Annealed numbers are functions of the iteration."""

import math
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from beit_mm.engine import Anneal
from beit_mm.engine.hooks.anneal import cosine


def test_the_schedule_is_half_a_cosine():
    assert cosine(0, 6.6, 5000, 0) == 0
    assert cosine(0, 6.6, 5000, 5000) == cosine(0, 6.6, 5000, 9999) == 6.6
    assert cosine(1, 1 / 16, 150_000, 75_000) == pytest.approx((1 + 1 / 16) / 2)
    assert cosine(1, 0, 100, 25) == pytest.approx((1 + math.sqrt(0.5)) / 2)


class Toy(BaseModel):
    """Records the value of beta in each iteration."""

    def __init__(self):
        super().__init__()
        self.weight, self.beta, self.seen = torch.nn.Parameter(torch.zeros(1)), 0.0, []

    def forward(self, inputs: torch.Tensor, mode: str = 'tensor', **kwargs) -> dict:
        self.seen.append(self.beta)
        return dict(loss=self.weight.sum())


def train(folder, iters: int, resume: bool = False) -> list[float]:
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


def test_a_resumed_run_sees_the_same_values(tmp_path):
    expected = [cosine(0, 6.6, 4, i) for i in range(6)]
    assert train(tmp_path, 3) == expected[:3]
    assert train(tmp_path, 6, resume=True) == expected[3:]


@pytest.mark.parametrize('attribute', ['betta', 'weight', 'train', 3])
def test_a_model_without_that_number_is_an_error_that_names_the_fix(attribute):
    with pytest.raises(ValueError, match=f'Toy has no number {attribute!r}.*custom_hooks=\\[\\]'):
        Anneal(attribute, 0, 1, 10).before_train(SimpleNamespace(model=Toy()))

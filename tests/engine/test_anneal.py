"""Annealed numbers are functions of the iteration."""

import math
from types import SimpleNamespace

import pytest
import torch

from beit_mm.engine import Anneal
from beit_mm.engine.hooks.anneal import cosine
from beit_mm.models import DiscreteVAE


def test_the_schedule_is_half_a_cosine():
    assert cosine(0, 6.6, 5000, 0) == 0
    assert cosine(0, 6.6, 5000, 5000) == cosine(0, 6.6, 5000, 9999) == 6.6
    assert cosine(1, 1 / 16, 150_000, 75_000) == pytest.approx((1 + 1 / 16) / 2)
    assert cosine(1, 0, 100, 25) == pytest.approx((1 + math.sqrt(0.5)) / 2)


def test_a_resumed_run_sees_the_same_values(train):
    seen, data = [], [dict(inputs=torch.zeros(3, 8, 8))] * 6
    model = DiscreteVAE(vocab_size=16, width=8, groups=2, blocks=1, width_in=4)
    model.register_forward_pre_hook(lambda *_: seen.append(model.beta))
    for iters in (3, 6):
        train(model, data, Anneal('beta', 0.0, 6.6, 4), iters, resume=iters == 6)
    assert seen == [cosine(0, 6.6, 4, i) for i in range(6)]


def test_by_default_the_end_is_that_of_the_run(train):
    seen, data = [], [dict(inputs=torch.zeros(3, 8, 8))] * 5
    model = DiscreteVAE(vocab_size=16, width=8, groups=2, blocks=1, width_in=4)
    model.register_forward_pre_hook(lambda *_: seen.append(model.beta))
    train(model, data, Anneal('beta', 1.0, 0.0), 5)
    assert seen == [cosine(1.0, 0.0, 5, i) for i in range(5)]


@pytest.mark.parametrize('attribute', ['betta', 'weight', 'forward', 3])
def test_a_model_without_that_number_is_an_error_that_names_the_fix(attribute):
    message = f'Linear has no number {attribute!r}.*custom_hooks=\\[\\]'
    with pytest.raises(ValueError, match=message):
        Anneal(attribute, 0, 1, 10).before_train(SimpleNamespace(model=torch.nn.Linear(1, 1)))

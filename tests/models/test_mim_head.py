"""The head of masked image modeling: its loss is the mean over exactly the valid positions."""

import math

import pytest
import torch
import torch.nn.functional as F

from beit_mm.models import MIMHead

B, M, D, K = 3, 5, 8, 16
VALID = torch.arange(M) < torch.tensor([[5], [2], [0]])
IDS = torch.randint(K, (B, M), generator=torch.Generator().manual_seed(2))
PIXELS = torch.randn(B, M, K, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def make() -> MIMHead:
    torch.manual_seed(0)
    return MIMHead(D, K).double()


def features() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(B, M, D, dtype=torch.float64, generator=generator, requires_grad=True)


def loss_of(model: MIMHead, x: torch.Tensor, target: torch.Tensor, valid=VALID) -> dict:
    return model.loss(x, target, valid, dict(masked_accuracy=valid))


def test_token_entropy_is_the_loss_of_a_model_that_ignores_the_image():
    model = make()
    target = torch.tensor([[1, 1, 2, 3, 0], [3, 3, 9, 9, 9], [4, 4, 4, 4, 4]])
    share = torch.tensor([1, 2, 1, 3]) / 7  # the valid ones are 1 1 2 3 0 3 3
    entropy = -(share * share.log()).sum().item()
    logged = loss_of(model, features(), target)
    assert logged['token_entropy'].item() == pytest.approx(entropy, rel=1e-5)
    model.proj.weight.data.zero_()
    model.proj.bias.data = torch.full((K,), -1e3, dtype=torch.float64)
    model.proj.bias.data[:4] = share.log().double()
    loss = loss_of(model, features(), target)['loss'].item()
    assert loss == pytest.approx(entropy, rel=1e-6)


def test_token_entropy_forgets_within_a_few_hundred_iterations():
    model, valid = make(), torch.ones(K, 1, dtype=torch.bool)
    for _ in range(5):
        entropy = model._update_entropy(torch.zeros(K, 1, dtype=torch.int64), valid)
    assert entropy == 0
    for _ in range(700):
        entropy = model._update_entropy(torch.arange(K)[:, None], valid)
    assert entropy.item() == pytest.approx(math.log(K), abs=1e-2)


def test_the_head_starts_near_uniform():
    model = MIMHead(64, 4096)
    model.target_counts.fill_(1)
    model.init_weights()
    assert not model.proj.bias.any() and not model.target_counts.any()
    assert model.proj.weight.abs().max() <= 0.02
    assert model.proj.weight.std().item() == pytest.approx(0.02 * math.sqrt(0.2912), rel=0.02)
    x = F.layer_norm(torch.randn(4, 8, 64), (64,))
    loss = loss_of(model, x, torch.randint(4096, (4, 8)), torch.ones(4, 8).bool())['loss']
    assert loss.item() == pytest.approx(math.log(4096), abs=0.1)

"""The head of masked image modeling: the mean over exactly the places that count."""

import math

import pytest
import torch
import torch.nn.functional as F

from beit_mm.models import MIMHead

B, M, D, K = 3, 5, 8, 16


def head(channels: int = K) -> MIMHead:
    torch.manual_seed(0)
    return MIMHead(D, channels).double()


def features() -> torch.Tensor:
    return torch.randn(
        B, M, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True
    )


def ids() -> torch.Tensor:
    return torch.randint(K, (B, M), generator=torch.Generator().manual_seed(2))


def valid() -> torch.Tensor:
    """Five, two and no places that count."""
    return torch.arange(M) < torch.tensor([[5], [2], [0]])


def test_loss_is_cross_entropy_at_the_valid_places():
    model, x, target = head(), features(), ids()
    loss = model.loss(x, target, valid())['loss']
    expected = F.cross_entropy(model(x)[valid()], target[valid()])
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    (found,) = torch.autograd.grad(loss, x, retain_graph=True)
    torch.testing.assert_close(found, torch.autograd.grad(expected, x)[0], rtol=1e-6, atol=1e-12)
    assert found[~valid()].abs().max() == 0


def test_loss_of_pixels_is_the_mean_squared_error_at_the_valid_places():
    model, x, target = head(), features(), torch.randn(B, M, K, dtype=torch.float64)
    logged = model.loss(x, target, valid())
    torch.testing.assert_close(
        logged['loss'], F.mse_loss(model(x)[valid()], target[valid()]), rtol=1e-6, atol=0
    )
    assert set(logged) == {'loss'}


def test_what_stands_at_unused_places_changes_nothing():
    model, x, target = head(), features().detach(), ids()
    other_x, other = torch.where(valid()[..., None], x, 1e3), torch.where(valid(), target, 0)
    first, second = (head().loss(*both, valid()) for both in ((x, target), (other_x, other)))
    assert all(torch.equal(first[k], second[k]) for k in first)
    pixels = model(x).detach()
    assert torch.equal(
        model.loss(x, pixels + 1, valid())['loss'],
        model.loss(other_x, model(other_x) + 1, valid())['loss'],
    )


def test_accuracy_counts_hits_among_the_valid_places():
    model = head()
    model.proj.weight.data = torch.eye(K, D, dtype=torch.float64) * 9
    target = ids() % D
    x = F.one_hot(target, D).double()  # every prediction is right,
    x[0, :3] = x[0, :3].roll(1, -1)  # but three of the seven that count,
    x[2] = x[2].roll(1, -1)  # and some that do not
    assert model.loss(x, target, valid())['masked_accuracy'].item() == pytest.approx(
        100 * 4 / 7, rel=1e-6
    )


def test_nothing_to_predict_is_a_loss_of_zero_with_a_gradient_of_zero():
    model, x = head(), features()
    for target in (ids(), torch.randn(B, M, K, dtype=torch.float64)):
        logged = model.loss(x, target, torch.zeros(B, M, dtype=torch.bool))
        logged['loss'].backward()
        assert all(v == 0 for v in logged.values())
    assert x.grad.abs().max() == 0 and model.proj.weight.grad.abs().max() == 0


def test_token_entropy_is_the_loss_of_a_model_that_ignores_the_image():
    model, target = (
        head(),
        torch.tensor([[1, 1, 2, 3, 0], [3, 3, 9, 9, 9], [4, 4, 4, 4, 4]]),
    )  # 1 1 2 3 0 3 3 count
    share = torch.tensor([1, 2, 1, 3]) / 7
    entropy = -(share * share.log()).sum().item()
    logged = model.loss(features(), target, valid())
    assert logged['token_entropy'].item() == pytest.approx(entropy, rel=1e-5)
    model.proj.weight.data.zero_()
    model.proj.bias.data = torch.full((K,), -1e3, dtype=torch.float64)
    model.proj.bias.data[:4] = share.log().double()
    assert model.loss(features(), target, valid())['loss'].item() == pytest.approx(
        entropy, rel=1e-6
    )


def test_token_entropy_forgets():
    """Uniform targets after many of one id: within a few hundred iterations the entropy is the new one."""
    model, x, every = (
        head(),
        torch.zeros(K, 1, D, dtype=torch.float64),
        torch.ones(K, 1, dtype=torch.bool),
    )
    for _ in range(5):
        entropy = model.loss(x, torch.zeros(K, 1, dtype=torch.int64), every)['token_entropy']
    assert entropy == 0
    for _ in range(700):
        entropy = model._entropy(torch.arange(K)[:, None], every)
    assert entropy.item() == pytest.approx(math.log(K), abs=1e-2)


def test_the_head_starts_near_uniform():
    model = MIMHead(64, 4096)
    model.init_weights()
    assert model.proj.bias.abs().max() == 0 and model.proj.weight.abs().max() <= 0.02
    assert model.proj.weight.std().item() == pytest.approx(0.02 * math.sqrt(0.2912), rel=0.02)
    x = F.layer_norm(torch.randn(4, 8, 64), (64,))
    loss = model.loss(x, torch.randint(4096, (4, 8)), torch.ones(4, 8, dtype=torch.bool))['loss']
    assert loss.item() == pytest.approx(math.log(4096), abs=0.1)

"""The discrete VAE: DALL-E's sizes, SciPy's densities, the paper's ELBO, a codebook in use."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from beit_mm.models import DiscreteVAE
from beit_mm.models.codebook import choose_distant
from beit_mm.models.dvae_losses import LIKELIHOODS, kl_to_uniform, logit_laplace, map_pixels, psnr
from beit_mm.models.histogram import histogram, perplexity

pytestmark = pytest.mark.any_stack

TINY = dict(vocab_size=32, width=8, groups=3, blocks=1, width_in=8)


def make(**kwargs) -> DiscreteVAE:
    torch.manual_seed(0)
    return DiscreteVAE(**TINY | kwargs).double()


def image(batch: int = 2, h: int = 16, w: int = 16, seed: int = 1) -> torch.Tensor:
    """Return smooth colorful images in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 4, 4, dtype=torch.float64, generator=generator)
    return torch.nn.functional.interpolate(coarse, (h, w), mode='bilinear')


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# -- networks ------------------------------------------------------------------------------------


def test_sizes_are_dall_es():
    with torch.device('meta'):
        model = DiscreteVAE()
    assert count(model.encoder) == 53_786_240 and count(model.decoder) == 43_829_766
    assert model.encoder.group_4.block_2.gain == model.decoder.group_1.block_1.gain == 1 / 64
    assert model.tokens(torch.rand(2, 3, 112, 112, device='meta')).shape == (2, 14, 14)


def test_weights_start_with_variance_one_over_fan_in():
    model = DiscreteVAE(vocab_size=512, width=64, groups=2, blocks=2, width_in=64)
    for p in model.parameters():
        torch.nn.init.constant_(p, float('nan'))
    model.init_weights()
    for name, p in model.named_parameters():
        if name.endswith('bias'):
            assert not p.any(), name
        elif p.numel() > 4000:
            tolerance = 6 * math.sqrt(2 / p.numel())
            assert p.var().item() * p[0].numel() == pytest.approx(1, abs=tolerance), name


def test_the_code_for_a_gpu_computes_the_same(monkeypatch):
    model, x = make(), image(2, 32, 32)
    expected = model.logits(x)
    monkeypatch.setattr('beit_mm.models.dvae_networks.is_on_gpu', lambda _: True)
    monkeypatch.setattr('torch.compiler.is_compiling', lambda: True)
    x.requires_grad_()
    found = model.logits(x)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert x.grad.any()


# -- likelihoods ---------------------------------------------------------------------------------


def maps(mu: float, log_b: float, shape: tuple) -> torch.Tensor:
    """Return a decoder output [1, 6, *shape] with the same values everywhere."""
    values = torch.tensor([mu] * 3 + [log_b] * 3, dtype=torch.float64)
    return values.view(1, 6, 1, 1).expand(1, 6, *shape)


@pytest.mark.parametrize('name', LIKELIHOODS)
def test_log_likelihoods_are_scipys(name):
    x = np.random.default_rng(0).random((1, 3, 4, 5))
    y, mu, b = 0.1 + 0.8 * x, 0.4, math.exp(-0.7)
    logit, mean = np.log(y / (1 - y)), 1 / (1 + math.exp(-mu))
    expected = dict(
        logit_laplace=stats.laplace.logpdf(logit, mu, b) - np.log(y * (1 - y)),
        mse=stats.norm.logpdf(y, mean, 1),
    )[name]
    found = LIKELIHOODS[name](maps(mu, -0.7, (4, 5)), torch.from_numpy(x))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


# -- KL and ELBO ---------------------------------------------------------------------------------


def test_the_kl_is_all_information_or_all_marginal_at_the_extremes():
    each_code_once = torch.eye(8, dtype=torch.float64).view(2, 4, 8).permute(0, 2, 1)[..., None]
    information, marginal = kl_to_uniform(each_code_once.clamp_min(1e-300).log())
    assert information.item() == pytest.approx(math.log(8))
    assert marginal.item() == pytest.approx(0, abs=1e-12)

    row = torch.tensor([0.7, 0.1, 0.1, 0.1], dtype=torch.float64)
    information, marginal = kl_to_uniform(row.log().view(1, 4, 1, 1).expand(3, 4, 2, 2))
    assert information.item() == pytest.approx(0, abs=1e-12)
    assert marginal.item() == pytest.approx(math.log(4) - stats.entropy(row.numpy()))


@pytest.mark.parametrize('likelihood', LIKELIHOODS)
def test_the_loss_is_the_papers_elbo_per_subpixel(likelihood):
    """At stride 8, the KL of a token has the weight β / 192."""
    model, x = make(groups=4, beta=6.6, likelihood=likelihood, width=4), image(2, 24, 16)
    logged = model.loss(x)
    log_q = model.logits(x).log_softmax(1)
    kl = (log_q.exp() * (log_q + math.log(32))).sum(1).mean().item()  # nats per token
    weighted_kl = (logged['loss'] - logged['reconstruction']).item()
    assert weighted_kl == pytest.approx(6.6 / 192 * kl, rel=1e-9)
    elbo = -logged['reconstruction'].item() - kl / 192
    assert logged['elbo'].item() == pytest.approx(elbo, rel=1e-9)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32, torch.float64])
def test_losses_are_computed_in_at_least_float32(dtype):
    model = make().to(dtype)
    loss = model.loss(image().to(dtype))['loss']
    loss.backward()
    assert loss.dtype == torch.promote_types(dtype, torch.float32) and loss.isfinite()


# -- codebook ------------------------------------------------------------------------------------


def test_each_patch_gets_the_code_that_is_nearest_to_its_feature():
    model, x = make(width=16), image(8)
    model.init_codebook(x, sharpness=3.0)
    features = model.encoder[:-1](map_pixels(x)).relu().permute(0, 2, 3, 1).flatten(0, 2)
    conv = model.encoder.output.conv
    assert len(conv.weight.unique(dim=0)) == 32
    scale = -2 * conv.bias / conv.weight.square().sum((1, 2, 3))
    codes = conv.weight.flatten(1) * scale[:, None]
    squared = torch.cdist(features, codes).square()
    assert torch.equal(model.tokens(x).flatten(), squared.argmin(1))
    expected = -3 / 2 * squared / squared.amin(1).mean()
    found = model.logits(x).permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(found.diff(dim=1), expected.diff(dim=1), rtol=1e-6, atol=1e-6)


def test_codes_made_from_patches_are_all_used():
    model, x = make(width=16), image(32, seed=5)
    used_before = len(model.tokens(x).unique())
    model.init_codebook(x)
    tokens = model.tokens(x)
    assert len(tokens.unique()) == 32 > 2 * used_before
    assert len(model.tokens(image(32, seed=6)).unique()) >= 0.9 * 32
    logged = model.loss(x)
    counts = torch.bincount(tokens.flatten(), minlength=32).float()
    assert logged['codes_used'] == 32
    assert logged['perplexity'].item() == pytest.approx(perplexity(counts).item(), rel=1e-5)


def test_codes_are_chosen_far_apart():
    """Each of eight distant clusters gets a code, although one cluster is much larger."""
    generator = torch.Generator().manual_seed(0)
    centers = 100 * torch.eye(8, dtype=torch.float64)
    noise = torch.rand(521, 8, generator=generator, dtype=torch.float64)
    features = centers.repeat_interleave(torch.tensor([500] + [3] * 7), 0) + noise
    codes, distances = choose_distant(features, 8)
    assert sorted(torch.cdist(codes, centers).argmin(1).tolist()) == list(range(8))
    assert all((features == code).all(1).any() for code in codes)
    nearest = torch.cdist(features, codes).amin(1).square()
    torch.testing.assert_close(distances, nearest, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('images', [torch.rand(2, 3, 16, 16), torch.full((64, 3, 16, 16), 0.5)])
def test_too_few_different_patches_for_a_codebook_are_an_error(images):
    message = r'patches of \d+ images are too similar for 32 codes: raise num_images'
    with pytest.raises(ValueError, match=message):
        make().init_codebook(images.double())


def test_training_on_the_same_images_lowers_the_loss():
    model, x = make(width=16, temperature=0.5).float(), image(8).float()
    model.init_codebook(x)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses, before = [], psnr(model.decode(model.tokens(x)), x).mean()
    for _ in range(100):
        optimizer.zero_grad()
        loss = model.loss(x)['loss']
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.3
    assert psnr(model.decode(model.tokens(x)), x).mean() > before + 3  # dB


# -- figures -------------------------------------------------------------------------------------


def test_figures_of_known_values():
    ids = torch.randint(7, (3, 5), generator=torch.Generator().manual_seed(0))
    assert torch.equal(histogram(ids, 9), torch.bincount(ids.flatten(), minlength=9).float())
    assert perplexity(torch.tensor([5.0, 5, 5, 0, 0])).item() == pytest.approx(3)
    assert perplexity(torch.tensor([9.0, 0, 0])).item() == pytest.approx(1)
    x = torch.full((3, 8, 8), 0.4)
    assert psnr(x, x + 0.1).item() == pytest.approx(20, abs=1e-3)
    assert psnr(x, x).item() == pytest.approx(100)


def test_predict_reports_nats_per_image_and_decibels():
    model, x = make().eval(), image(2)
    for sample, one in zip(model.predict(x), x, strict=True):
        assert torch.equal(sample.ids, model.tokens(one[None])[0])
        log_q = model.logits(one[None])[0].log_softmax(0)
        kl = (log_q.exp() * (log_q + math.log(32))).sum().item()
        assert sample.kl.item() == pytest.approx(kl, rel=1e-6)
        expected = logit_laplace(model.decode_maps(sample.ids[None]), one[None]).sum().item()
        assert sample.log_likelihood.item() == pytest.approx(expected, rel=1e-6)
        decoded = model.decode(sample.ids[None])[0]
        torch.testing.assert_close(sample.reconstruction, decoded)
        assert sample.psnr.item() == pytest.approx(psnr(decoded, one).item(), rel=1e-6)
        mse = (one - one.mean((1, 2), keepdim=True)).square().mean()
        assert sample.psnr_mean_color.item() == pytest.approx(-10 * math.log10(mse), rel=1e-6)

"""The discrete VAE: DALL-E's sizes, a density that is one, an ELBO in the paper's units, a codebook that is used."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from beit_mm.models import DiscreteVAE
from beit_mm.models.dvae import (
    LIKELIHOODS,
    kl_to_uniform,
    logit_laplace,
    map_pixels,
    mean_color,
    perplexity,
    psnr,
    spread_out,
    unmap_pixels,
)

pytestmark = pytest.mark.any_stack

TINY = dict(vocab_size=32, width=8, groups=3, blocks=1, width_in=8)


def make(seed: int = 0, **kwargs) -> DiscreteVAE:
    torch.manual_seed(seed)
    return DiscreteVAE(**{**TINY, **kwargs}).double()


def image(batch: int = 2, h: int = 16, w: int = 16, seed: int = 1) -> torch.Tensor:
    """Smooth colourful images in [0, 1]."""
    coarse = torch.rand(
        batch, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    return torch.nn.functional.interpolate(coarse, (h, w), mode='bilinear')


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# -- the two networks --------------------------------------------------------------------------------------------------


def test_sizes_are_dall_es():
    with torch.device('meta'):
        model = DiscreteVAE()
    assert count(model.encoder) == 53_786_240 and count(model.decoder) == 43_829_766
    assert model.encoder.group_4.block_2.gain == model.decoder.group_1.block_1.gain == 1 / 64
    assert model.tokens(torch.rand(2, 3, 112, 112, device='meta')).shape == (2, 14, 14)


@pytest.mark.parametrize(('groups', 'stride'), [(1, 1), (2, 2), (3, 4), (4, 8)])
def test_a_token_stands_for_stride_squared_pixels(groups, stride):
    model, x = make(groups=groups, width=4), image(1, 2 * stride, 3 * stride)
    ids = model.tokens(x)
    assert model.stride == stride and ids.shape == (1, 2, 3) and ids.dtype == torch.int64
    assert model.decode(ids).shape == x.shape


def test_weights_start_with_variance_one_over_fan_in():
    model = DiscreteVAE(vocab_size=512, width=64, groups=2, blocks=2, width_in=64)
    for name, p in model.named_parameters():
        if name.endswith('bias'):
            assert p.abs().max() == 0, name
        elif p.numel() > 4000:
            fan_in = p[0].numel()
            assert p.var().item() * fan_in == pytest.approx(1, abs=6 * math.sqrt(2 / p.numel())), (
                name
            )


def test_tokens_are_the_likeliest_and_do_not_depend_on_the_rest_of_the_batch():
    model, x = make(), image(4)
    tokens = model.tokens(x)
    assert torch.equal(tokens, model.logits(x).argmax(1)) and torch.equal(tokens, model.tokens(x))
    assert torch.equal(tokens, torch.cat([model.tokens(one) for one in x.split(1)]))
    assert len(tokens.unique()) > 1


def test_tokens_are_the_same_in_a_graph_with_settings_of_numpy():
    model, x = make(**{key: np.int64(value) for key, value in TINY.items()}), image()
    assert torch.equal(
        torch.compile(model.tokens, backend='eager', fullgraph=True)(x), model.tokens(x)
    )


def test_decoding_ids_is_decoding_one_hot_codes():
    model, ids = make(), torch.randint(32, (2, 4, 4))
    codes = torch.eye(32, dtype=torch.float64)[ids].permute(0, 3, 1, 2)
    expected = unmap_pixels(torch.sigmoid(model.decoder(codes)[:, :3]))
    torch.testing.assert_close(model.decode(ids), expected)


# -- pixels and their likelihood ---------------------------------------------------------------------------------------


def test_unmapping_undoes_mapping_and_clamps():
    x = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(map_pixels(x), 0.1 + 0.8 * x)
    torch.testing.assert_close(unmap_pixels(map_pixels(x)), x)
    assert unmap_pixels(torch.tensor([0.0, 1.0])).tolist() == [0, 1]


def maps(mu: float, log_b: float, shape: tuple) -> torch.Tensor:
    """Decoder output [1, 6, *shape] with the same parameters everywhere."""
    return (
        torch.tensor([mu] * 3 + [log_b] * 3, dtype=torch.float64)
        .view(1, 6, 1, 1)
        .expand(1, 6, *shape)
    )


@pytest.mark.parametrize(('mu', 'log_b'), [(0.0, 0.0), (1.5, -1.0), (-2.0, 0.5), (0.3, -3.0)])
def test_logit_laplace_is_a_density_on_the_unit_interval(mu, log_b):
    t = torch.linspace(-60, 60, 600_001, dtype=torch.float64)
    y = torch.sigmoid(t)
    inside = (y > 1e-12) & (y < 1 - 1e-12)
    y, t = y[inside], t[inside]
    pixels = ((y - 0.1) / 0.8).view(1, 1, 1, -1).expand(1, 3, 1, -1)  # `map_pixels` gives y back
    density = logit_laplace(maps(mu, log_b, (1, len(y))), pixels)[0, 0, 0].exp()
    assert torch.trapezoid(density * y * (1 - y), t).item() == pytest.approx(
        1, abs=1e-4
    )  # dy = y (1 − y) dt


@pytest.mark.parametrize('name', LIKELIHOODS)
def test_log_likelihoods_are_those_of_the_distributions(name):
    x = np.random.default_rng(0).random((1, 3, 4, 5))
    y, mu, b = 0.1 + 0.8 * x, 0.4, math.exp(-0.7)
    logit, mean = np.log(y / (1 - y)), 1 / (1 + math.exp(-mu))
    expected = dict(
        logit_laplace=stats.laplace.logpdf(logit, mu, b) - np.log(y * (1 - y)),
        mse=stats.norm.logpdf(y, mean, 1),
        l1=stats.laplace.logpdf(y, mean, 1),
    )[name]
    found = LIKELIHOODS[name](maps(mu, -0.7, (4, 5)), torch.from_numpy(x))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


# -- KL and ELBO -------------------------------------------------------------------------------------------------------


def test_the_two_parts_of_the_kl_sum_to_it():
    logits = 3 * torch.randn(
        4, 32, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    log_q = logits.log_softmax(1)
    information, marginal = kl_to_uniform(log_q)
    kl = (log_q.exp() * (log_q + math.log(32))).sum(1).mean()
    assert (information + marginal).item() == pytest.approx(kl.item(), abs=1e-12)
    assert information > 0 and marginal > 0


def test_kl_of_one_hot_codes_used_equally_is_all_information():
    q = (
        torch.eye(8, dtype=torch.float64).view(2, 4, 8).permute(0, 2, 1).unsqueeze(-1)
    )  # [B, K, h, w], each code once
    information, marginal = kl_to_uniform(q.clamp_min(1e-300).log())
    assert information.item() == pytest.approx(math.log(8)) and marginal.item() == pytest.approx(
        0, abs=1e-12
    )


def test_kl_of_a_posterior_that_ignores_the_image_is_all_marginal():
    row = torch.tensor([0.7, 0.1, 0.1, 0.1], dtype=torch.float64)
    information, marginal = kl_to_uniform(row.log().view(1, 4, 1, 1).expand(3, 4, 2, 2))
    assert information.item() == pytest.approx(0, abs=1e-12)
    assert marginal.item() == pytest.approx(math.log(4) - stats.entropy(row.numpy()))


@pytest.mark.parametrize('likelihood', LIKELIHOODS)
def test_the_loss_is_the_papers_elbo_a_subpixel(likelihood):
    """−ELBO / (3·H·W) with β on the KL: at stride 8 a token's KL weighs β / 192."""
    model, x = make(groups=4, beta=6.6, likelihood=likelihood, width=4), image(2, 24, 16)
    logged = model.loss(x)
    log_q = model.logits(x).log_softmax(1)
    kl = (log_q.exp() * (log_q + math.log(32))).sum(1)  # nats, [B, h, w]
    tokens = kl[0].numel()
    weighted = (logged['loss'] - logged['reconstruction']) * 3 * 24 * 16  # nats an image
    assert weighted.item() == pytest.approx(6.6 * kl.sum((1, 2)).mean().item(), rel=1e-9)
    assert (logged['loss'] - logged['reconstruction']).item() == pytest.approx(
        6.6 / 192 * kl.mean().item(), rel=1e-9
    )
    assert -logged['elbo'].item() == pytest.approx(
        logged['reconstruction'].item() + kl.mean().item() * tokens / (3 * 24 * 16), rel=1e-9
    )


def test_each_part_of_the_kl_has_its_weight():
    for weights in ((1.0, 0.0), (0.0, 1.0), (0.3, 2.0)):
        model = make(beta=5.0, information_weight=weights[0], marginal_weight=weights[1])
        logged = model.loss(image())
        kl = weights[0] * logged['information'] + weights[1] * logged['marginal_kl']
        expected = logged['reconstruction'] + 5 / 48 * kl  # stride 4
        torch.testing.assert_close(logged['loss'], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize('straight_through', [True, False])
def test_straight_through_decodes_one_hot_codes_and_still_trains_the_encoder(straight_through):
    model, seen = make(straight_through=straight_through), []
    model.decoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.loss(image())['loss'].backward()
    one_hot = torch.nn.functional.one_hot(seen[0].argmax(1), 32).permute(0, 3, 1, 2)
    assert torch.allclose(seen[0], one_hot.double(), atol=1e-9) is straight_through
    torch.testing.assert_close(seen[0].sum(1), torch.ones(2, 4, 4, dtype=torch.float64))
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.encoder.parameters())


def test_temperature_sharpens_the_samples():
    sharpness = []
    for temperature in (1.0, 1 / 16):
        model, seen = make(temperature=temperature), []
        model.decoder.register_forward_pre_hook(
            lambda module, args, seen=seen: seen.append(args[0])
        )
        torch.manual_seed(3)
        model.loss(image())
        sharpness.append(seen[0].amax(1).mean().item())
    assert sharpness[0] < 0.5 and sharpness[1] > 0.85


def test_losses_are_made_in_f32_at_least_whatever_the_weights_are():
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        model = make().to(dtype)
        loss = model.loss(image().to(dtype))['loss']
        loss.backward()
        assert loss.dtype == torch.promote_types(dtype, torch.float32) and loss.isfinite()


def test_what_a_gpu_computes_in_another_way_is_the_same(monkeypatch):
    """A fourth channel of zeros, a maximum over axes: here on the CPU."""
    model, x = make(), image(2, 32, 32)
    expected = model.logits(x)
    monkeypatch.setattr('beit_mm.models.dvae_networks.on_gpu', lambda _: True)
    monkeypatch.setattr('torch.compiler.is_compiling', lambda: True)
    shapes = []
    handle = model.encoder.group_1.pool.register_forward_hook(
        lambda _, x, y: shapes.append((x[0].shape, y.shape))
    )
    torch.testing.assert_close(model.logits(x), expected)
    handle.remove()
    assert shapes[0][0][-1] == 2 * shapes[0][1][-1]
    x.requires_grad_()
    model.logits(x).sum().backward()
    assert x.grad.abs().sum() > 0


# -- the codebook ------------------------------------------------------------------------------------------------------


def test_each_patch_gets_the_code_that_is_nearest_to_its_feature():
    """A logit is −sharpness / 2 times the squared distance, in units of its mean, up to a constant of the patch."""
    model, x = make(width=16), image(8)
    model.init_codebook(x, sharpness=3.0)
    features = model.encoder[:-1](map_pixels(x)).relu().permute(0, 2, 3, 1).flatten(0, 2)
    conv = model.encoder.output.conv
    assert len(conv.weight.unique(dim=0)) == 32
    scale = (-2 * conv.bias / conv.weight.square().sum((1, 2, 3)))[
        :, None
    ]  # rows are codes / scale
    squared = torch.cdist(features, conv.weight.flatten(1) * scale).square()
    assert torch.equal(model.tokens(x).flatten(), squared.argmin(1))
    expected = -3 / 2 * squared / squared.amin(1).mean()
    found = model.logits(x).permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(found.diff(dim=1), expected.diff(dim=1), rtol=1e-6, atol=1e-6)


def test_codes_made_from_patches_are_all_used():
    model, x = make(width=16), image(32, seed=5)
    before = len(model.tokens(x).unique())
    model.init_codebook(x)
    assert len(model.tokens(x).unique()) == 32 > 2 * before
    assert len(model.tokens(image(32, seed=6)).unique()) >= 0.9 * 32  # and by other images


def test_codes_are_chosen_far_apart():
    """Of eight far groups of patches of which one is very common, each gets a code."""
    rng = torch.Generator().manual_seed(0)
    groups = 100 * torch.eye(8, dtype=torch.float64)
    features = groups.repeat_interleave(torch.tensor([500] + [3] * 7), 0) + torch.rand(
        521, 8, generator=rng, dtype=torch.float64
    )
    codes, distance = spread_out(features, 8)
    assert sorted(torch.cdist(codes, groups).argmin(1).tolist()) == list(range(8))
    assert all((features == code).all(1).any() for code in codes)  # they are patches
    torch.testing.assert_close(
        distance, torch.cdist(features, codes).amin(1).square(), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize('images', [torch.rand(2, 3, 16, 16), torch.full((64, 3, 16, 16), 0.5)])
def test_too_few_different_patches_for_a_codebook_are_an_error(images):
    """32 patches for 32 codes; many that are one and the same inside the border."""
    with pytest.raises(
        ValueError,
        match=r'patches of \d+ images are too few different ones for 32 codes: give InitCodebook',
    ):
        make().init_codebook(images.double())


def test_a_few_steps_on_the_same_images_lower_the_loss():
    model, x = make(width=16, temperature=0.5).float(), image(8).float()
    model.init_codebook(x)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses, errors = [], [psnr(model.decode(model.tokens(x)), x)]
    for _ in range(100):
        optimizer.zero_grad()
        loss = model.loss(x)['loss']
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    errors.append(psnr(model.decode(model.tokens(x)), x))
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.3
    assert (
        errors[1] > errors[0] + 3
    )  # dB; 5.1 where it was tried, and rounding differs between machines


# -- what is reported --------------------------------------------------------------------------------------------------


def test_perplexity_counts_equally_used_codes():
    assert perplexity(torch.tensor([5.0, 5, 5, 0, 0])).item() == pytest.approx(3)
    assert perplexity(torch.tensor([9.0, 0, 0])).item() == pytest.approx(1)


def test_psnr_in_decibels():
    x = torch.full((3, 8, 8), 0.4)
    assert psnr(x, x + 0.1).item() == pytest.approx(20, abs=1e-3)
    assert psnr(x, x).item() == pytest.approx(100)
    assert mean_color(image()[0]).std((1, 2)).max() < 1e-12


def test_logged_usage_is_the_batchs():
    model, x = make(width=16), image(16)
    model.init_codebook(x)
    logged = model.loss(x)
    counts = torch.bincount(model.tokens(x).flatten(), minlength=32)
    assert logged['codes_used'] == (counts > 0).sum()
    assert logged['perplexity'].item() == pytest.approx(perplexity(counts.float()).item(), rel=1e-5)


def test_predict_reports_nats_an_image_and_decibels():
    model, x = make().eval(), image(2)
    for sample, one in zip(model.predict(x), x, strict=True):
        assert torch.equal(sample.ids, model.tokens(one[None])[0])
        log_q = model.logits(one[None])[0].log_softmax(0)
        assert sample.kl.item() == pytest.approx(
            (log_q.exp() * (log_q + math.log(32))).sum().item(), rel=1e-6
        )
        expected = logit_laplace(model.decode_maps(sample.ids[None]), one[None]).sum()
        assert sample.log_likelihood.item() == pytest.approx(expected.item(), rel=1e-6)
        assert sample.psnr.item() == pytest.approx(
            psnr(model.decode(sample.ids[None])[0], one).item(), rel=1e-6
        )
        flat = one.mean((1, 2), keepdim=True)
        assert sample.psnr_mean_color.item() == pytest.approx(
            -10 * math.log10(((one - flat) ** 2).mean()), rel=1e-6
        )

"""Targets of the prediction: ids of the frozen tokenizer, or normalized pixels of each patch."""

import pytest
import torch

from beit_mm.models import DiscreteVAE, PixelTarget, TokenTarget
from beit_mm.models.dvae_losses import map_pixels

VAE = dict(vocab_size=32, width=8, groups=3, blocks=1, width_in=8)
CONFIG = dict(type='DiscreteVAE', **VAE)


@pytest.fixture
def trained(tmp_path) -> tuple[DiscreteVAE, str]:
    """Return a tokenizer and its checkpoint."""
    torch.manual_seed(0)
    model = DiscreteVAE(**VAE).eval()
    model.init_codebook(make_views(16))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'tokenizer.pth')
    return model, str(tmp_path / 'tokenizer.pth')


def make_views(batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 3, 16, 24, generator=torch.Generator().manual_seed(1))


def test_tokens_are_those_of_the_checkpoint_without_gradient(trained):
    model, path = trained
    target = TokenTarget(CONFIG, path)
    tokens = target(dict(token_view=make_views().requires_grad_()))
    assert torch.equal(tokens, model.tokens(make_views())) and tokens.shape == (2, 4, 6)
    assert target.channels == 32 and len(tokens.unique()) > 8
    assert not tokens.requires_grad and not isinstance(target, torch.nn.Module)


def test_tokens_are_computed_in_float32_also_under_autocast(trained):
    model, path = trained
    target, inputs = TokenTarget(CONFIG, path), dict(token_view=make_views(64))
    expected = target(inputs)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(target(inputs), expected)
        assert not torch.equal(model.tokens(inputs['token_view']), expected)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_half_precision_excludes_the_last_convolution(trained, dtype):
    """In half precision, the last convolution would change many more ids."""
    model, path = trained
    views = make_views(256)
    mapped = map_pixels(views).contiguous(memory_format=torch.channels_last)
    with torch.autocast('cpu', getattr(torch, dtype)), torch.no_grad():
        features = model.encoder[:-1](mapped)
        all_half = model.encoder.output(features).argmax(1)
    tokens = TokenTarget(CONFIG, path, dtype=dtype)(dict(token_view=views))
    exact = TokenTarget(CONFIG, path)(dict(token_view=views))
    assert torch.equal(tokens, model.encoder.output(features.float()).argmax(1))
    assert 0 < (tokens != exact).float().mean() < 0.5 * (all_half != exact).float().mean()


def test_a_tokenizer_of_another_shape_is_refused_and_never_partly_loaded(trained):
    target = TokenTarget(CONFIG | dict(blocks=2), trained[1])
    before = {k: v.clone() for k, v in target.tokenizer_module.state_dict().items()}
    for _ in range(2):
        with pytest.raises(ValueError, match=r'does not fit this DiscreteVAE'):
            target(dict(token_view=make_views()))
    after = target.tokenizer_module.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_the_fingerprint_identifies_a_tokenizer(trained):
    path = trained[1]
    first = TokenTarget(CONFIG, path).fingerprint()
    assert first == TokenTarget(CONFIG, path).fingerprint() and 0 <= first < 2**63
    target = TokenTarget(CONFIG, path)
    target.tokenizer.encoder.input.bias.data[0] += 1e-6
    assert target.fingerprint() != first


def test_pixels_are_normalized_per_patch_in_the_order_channel_row_column():
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(2, 3, 4, 6, generator=generator) * 7 + 3
    target = PixelTarget(patch_size=2)
    pixels = target(dict(patch_view=image))
    assert pixels.shape == (2, 2, 3, 12) and target.channels == 12
    for y in range(2):
        for x in range(3):
            patch = image[:, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].reshape(2, -1)
            expected = (patch - patch.mean(1, keepdim=True)) / patch.std(1, keepdim=True)
            torch.testing.assert_close(pixels[:, y, x], expected)

"""What is predicted: the frozen tokenizer's ids, or each patch's own normalised pixels."""

import pytest
import torch

from beit_mm.models import DiscreteVAE, PixelTarget, TokenTarget
from beit_mm.models.dvae import map_pixels

VAE = dict(type='DiscreteVAE', vocab_size=32, width=8, groups=3, blocks=1, width_in=8)


@pytest.fixture
def trained(tmp_path) -> tuple[DiscreteVAE, str]:
    """A tokenizer and the checkpoint that a run of it would write."""
    torch.manual_seed(0)
    model = DiscreteVAE(**{k: v for k, v in VAE.items() if k != 'type'}).eval()
    model.init_codebook(views(16))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'tokenizer.pth')
    return model, str(tmp_path / 'tokenizer.pth')


def views(batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 3, 16, 24, generator=torch.Generator().manual_seed(1))


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_tokens_are_those_of_the_checkpoint(trained):
    model, path = trained
    target = TokenTarget(VAE, path)
    tokens = target(dict(token_view=views()))
    assert torch.equal(tokens, model.tokens(views())) and tokens.shape == (2, 4, 6)
    assert target.channels == 32 and len(tokens.unique()) > 8


def test_the_tokenizer_is_frozen_and_no_part_of_the_model(trained):
    target = TokenTarget(VAE, trained[1])
    assert not isinstance(target, torch.nn.Module)
    assert not target.tokenizer.training and not any(
        p.requires_grad for p in target.tokenizer.parameters()
    )
    tokens = target(dict(token_view=views().requires_grad_()))
    assert not tokens.requires_grad and target.tokenizer.encoder.input.weight.grad is None


def test_tokens_are_made_in_f32_also_under_autocast(trained):
    """Whatever precision BEiT trains in."""
    model, path = trained
    target, inputs = TokenTarget(VAE, path), dict(token_view=views(64))
    expected = target(inputs)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(target(inputs), expected)
        assert not torch.equal(model.tokens(views(64)), expected)  # what this test is able to see
        assert torch.is_autocast_enabled('cpu')


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_half_precision_is_that_of_all_but_the_last_convolution(trained, dtype):
    """As in DALL-E's own code. Whole bfloat16 gives many more other ids."""
    model, path = trained
    inputs, half = dict(token_view=views(256)), getattr(torch, dtype)
    with torch.autocast('cpu', half), torch.no_grad():
        features = model.encoder[:-1](
            map_pixels(inputs['token_view']).contiguous(memory_format=torch.channels_last)
        )
        all_half = model.encoder.output(features).argmax(1)
    tokens, expected = TokenTarget(VAE, path, dtype=dtype)(inputs), TokenTarget(VAE, path)(inputs)
    assert features.dtype == half and torch.equal(
        tokens, model.encoder.output(features.float()).argmax(1)
    )
    assert 0 < (tokens != expected).float().mean() < 0.5 * (all_half != expected).float().mean()


def test_an_unknown_precision_is_an_error():
    with pytest.raises(ValueError, match="dtype='half': expected one of"):
        TokenTarget(VAE, dtype='half')


def test_cached_ids_are_used_as_they_are_and_need_no_tokenizer():
    ids = torch.randint(32, (2, 4, 6))
    assert TokenTarget(VAE)(dict(token_ids=ids, token_view=views())) is ids


def test_without_a_checkpoint_an_error_tells_the_command_that_makes_one():
    target = TokenTarget(VAE)
    for use in (
        lambda: target(dict(token_view=views())),
        target.fingerprint,
        lambda: target.tokenizer,
    ):
        with pytest.raises(
            FileNotFoundError, match=r'tools/train.py configs/tokenizer/.*model.target.checkpoint='
        ):
            use()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no checkpoint at .*gone\.pth.*work_dir'):
        TokenTarget(VAE, str(tmp_path / 'gone.pth'))(dict(token_view=views()))


@pytest.mark.parametrize(
    'other', [dict(vocab_size=16), dict(width=4), dict(groups=2), dict(blocks=2)]
)
def test_a_tokenizer_of_another_shape_is_refused_and_never_half_loaded(trained, other):
    target = TokenTarget(VAE | other, trained[1])
    before = {k: v.clone() for k, v in target._tokenizer.state_dict().items()}
    for _ in range(2):  # the second use fails as well
        with pytest.raises(
            ValueError, match=r'does not fit this tokenizer.*vocab_size, width, groups, blocks'
        ):
            target(dict(token_view=views()))
    assert all(torch.equal(v, before[k]) for k, v in target._tokenizer.state_dict().items())


def test_the_fingerprint_tells_tokenizers_apart(trained):
    _, path = trained
    first = TokenTarget(VAE, path).fingerprint()
    assert first == TokenTarget(VAE, path).fingerprint() and 0 <= first < 2**63
    target = TokenTarget(VAE, path)
    target.tokenizer.encoder.input.bias.data[0] += 1e-6
    assert target.fingerprint() != first


# -- pixels ------------------------------------------------------------------------------------------------------------


def test_each_patchs_pixels_have_mean_zero_and_variance_one():
    image = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(1)) * 7 + 3
    target = PixelTarget(patch_size=8)
    pixels = target(dict(patch_view=image))
    assert pixels.shape == (2, 2, 3, 192) and target.channels == 192
    torch.testing.assert_close(pixels.mean(-1), torch.zeros(2, 2, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(pixels.var(-1), torch.ones(2, 2, 3), rtol=0, atol=1e-4)


def test_pixels_are_in_the_order_channel_row_column_of_the_patch_at_its_place():
    image = torch.arange(2 * 3 * 4 * 6, dtype=torch.float).view(2, 3, 4, 6).square()
    pixels = PixelTarget(patch_size=2)(dict(patch_view=image))
    for y in range(2):
        for x in range(3):
            patch = image[:, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].reshape(2, -1)
            expected = (patch - patch.mean(1, keepdim=True)) / patch.std(1, keepdim=True)
            torch.testing.assert_close(pixels[:, y, x], expected)


def test_brightness_and_contrast_of_a_patch_do_not_matter_and_flat_ones_are_zero():
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    target = PixelTarget(patch_size=4)
    before, after = target(dict(patch_view=image)), target(dict(patch_view=image * 5 - 2))
    torch.testing.assert_close(before, after, rtol=0, atol=1e-3)
    assert target(dict(patch_view=torch.full((1, 3, 8, 8), 0.3))).abs().max() < 1e-3

"""Filled-in tokens: visible ones stay, masked ones are those that the pre-training predicts."""

import numpy as np
import pytest
import torch
from torch import nn

from beit_mm.models import BEiTPretrainer, DiscreteVAE
from beit_mm.viz import fill

pytestmark = pytest.mark.any_stack

ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
VAE = dict(vocab_size=16, width=4, groups=2, blocks=1, width_in=4)  # stride 2


@pytest.fixture
def pretrainer() -> BEiTPretrainer:
    torch.manual_seed(0)
    backbone = dict(
        type='beit_mm.BEiT',
        arch=ARCH,
        img_size=64,
        patch_size=8,
        mask_token=True,
        rel_pos_bias='shared',
    )
    target = dict(type='beit_mm.TokenTarget', tokenizer=dict(type='beit_mm.DiscreteVAE', **VAE))
    head = dict(type='beit_mm.MIMHead', in_channels=16, out_channels=16)
    model = BEiTPretrainer(backbone, target, head, 40).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize('ratio', [0.2, 0.6])
def test_visible_tokens_stay_and_masked_ones_are_what_pre_training_predicts(pretrainer, ratio):
    mask = torch.from_numpy(fill.make_masks([ratio], 3, (8, 8)))
    generator = torch.Generator().manual_seed(0)
    view = torch.randn(1, 3, 64, 64, generator=generator).expand(3, -1, -1, -1)
    ids = torch.randint(16, (1, 8, 8), generator=generator).expand(3, -1, -1)
    filled = fill.fill_in(pretrainer.backbone, pretrainer.head, view, ids, mask)
    assert torch.equal(filled[~mask], ids[~mask])
    assert (filled[mask] != ids[mask]).any()
    samples = pretrainer.predict(dict(patch_view=view, token_ids=ids, mask=mask))
    for found, expected, sample in zip(filled, mask, samples, strict=True):
        places = sample.patch_ids[sample.hidden]
        assert torch.equal(found.flatten()[places], sample.prediction[sample.hidden])
        assert len(places) == expected.sum()


def test_masks_have_the_ratio_in_blocks_and_are_reproducible():
    masks = fill.make_masks([0.25, 0.5], 4, (14, 14))
    assert masks.shape == (8, 14, 14)
    assert np.array_equal(masks, fill.make_masks([0.25, 0.5], 4, (14, 14)))
    for part, ratio in ((masks[:4], 0.25), (masks[4:], 0.5)):
        assert np.abs(part.mean((1, 2)) - ratio).max() <= 0.05
    assert not np.array_equal(masks[0], masks[1])
    neighbors = (masks[:, 1:] & masks[:, :-1]).sum() / masks.sum()
    assert neighbors > 0.6  # at most 0.4 for single patches
    assert (fill.make_masks([0.001, 0.99], 1, (3, 3)).sum((1, 2)) >= 1).all()


@pytest.mark.parametrize('ratio', [0, 1, -0.5, 40])
def test_a_ratio_outside_0_and_1_is_an_error(ratio):
    with pytest.raises(ValueError, match=f'--ratios {ratio:g}: expected shares between 0 and 1'):
        fill.make_masks([0.4, ratio], 1, (8, 8))


def test_rows_show_the_input_and_the_decoded_tokens(pretrainer):
    torch.manual_seed(0)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    masks = fill.make_masks([0.4], 2, (8, 8))
    columns, (upper, lower) = fill.draw_filled(
        pretrainer.backbone,
        pretrainer.head,
        DiscreteVAE(**VAE),
        image,
        masks,
        dict(mean=[127.5] * 3, std=[127.5] * 3),
    )
    pixels = masks.repeat(8, 1).repeat(8, 2)
    assert len(columns) == 3 and columns[1].startswith(f'{masks[0].mean():.0%} masked')
    assert np.array_equal(upper[0], image)
    assert np.array_equal(upper[2][~pixels[1]], image[~pixels[1]])
    assert (upper[1][pixels[0]] == 128).all()
    assert [picture.shape for picture in lower] == [(16, 16, 3)] * 3

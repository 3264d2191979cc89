"""Filled-in tokens: visible ones stay, hidden ones are the model's likeliest, and the masks hide what was asked."""

import numpy as np
import pytest
import torch
from torch import nn

from beit_mm.models import BEiT, BEiTPretrainer, DiscreteVAE
from beit_mm.viz import draw, fill

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
    model = BEiTPretrainer(
        backbone, target, dict(type='beit_mm.MIMHead', in_channels=16, out_channels=16), 40
    ).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize('ratio', [0.2, 0.6])
def test_visible_tokens_stay_and_hidden_ones_are_what_pre_training_predicts(pretrainer, ratio):
    masks = fill.masks_of([ratio], 3, (8, 8))
    view = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    true = torch.randint(16, (8, 8), generator=torch.Generator().manual_seed(1))
    found = fill.fill(pretrainer.backbone, pretrainer.head.proj, view, true, masks)
    hidden = torch.from_numpy(masks)
    assert torch.equal(found.guessed[~hidden], true.expand(3, -1, -1)[~hidden])
    assert (found.guessed[hidden] != true.expand(3, -1, -1)[hidden]).any()
    inputs = dict(
        patch_view=view.expand(3, -1, -1, -1), token_ids=true.expand(3, -1, -1), mask=hidden
    )
    for i, sample in enumerate(pretrainer.predict(inputs)):
        places = sample.patch_ids[sample.hidden]
        assert torch.equal(found.guessed[i].flatten()[places], sample.prediction[sample.hidden])
        assert len(places) == hidden[i].sum()
        right = (sample.prediction == sample.target)[sample.hidden].float().mean()
        assert found.right(i) == pytest.approx(right.item())


def test_masks_hide_the_share_asked_in_blocks_and_are_the_same_each_time():
    masks = fill.masks_of([0.25, 0.5], 4, (14, 14))
    assert masks.shape == (8, 14, 14) and np.array_equal(
        masks, fill.masks_of([0.25, 0.5], 4, (14, 14))
    )
    assert (
        np.abs(masks[:4].mean((1, 2)) - 0.25).max() <= 0.05
        and np.abs(masks[4:].mean((1, 2)) - 0.5).max() <= 0.05
    )
    assert not np.array_equal(masks[0], masks[1])
    neighbours = (masks[:, 1:] & masks[:, :-1]).sum() / masks.sum()
    assert neighbours > 0.6  # of single patches it would be 0.4 at most
    assert (fill.masks_of([0.001, 0.99], 1, (3, 3)).sum((1, 2)) >= 1).all()


@pytest.mark.parametrize('ratio', [0, 1, -0.5, 40])
def test_a_ratio_that_is_none_is_an_error(ratio):
    with pytest.raises(ValueError, match=f'lies between 0 and 1, given was {ratio:g}'):
        fill.masks_of([0.4, ratio], 1, (8, 8))


def test_the_table_shows_image_masks_tokens_and_guesses(pretrainer, monkeypatch):
    torch.manual_seed(0)
    tokenizer, drawn = DiscreteVAE(**VAE), []
    monkeypatch.setattr(
        draw, 'picture_table', lambda columns, rows: drawn.append((columns, rows)) or ''
    )
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    masks = fill.masks_of([0.4], 2, (8, 8))
    fill.table(
        pretrainer.backbone,
        pretrainer.head.proj,
        tokenizer,
        image,
        masks,
        dict(mean=[127.5] * 3, std=[127.5] * 3),
    )
    (columns, (seen, decoded)), hidden = drawn[0], masks.repeat(8, 1).repeat(8, 2)
    assert len(columns) == 3 and columns[1].startswith(f'{masks[0].mean():.0%} hidden')
    assert np.array_equal(seen[0], image) and np.array_equal(seen[2][~hidden[1]], image[~hidden[1]])
    assert (seen[1][hidden[0]] == 128).all()
    assert [picture.shape for picture in decoded] == [(16, 16, 3)] * 3


def test_a_backbone_without_mask_token_cannot_guess():
    backbone = BEiT(ARCH, img_size=64, patch_size=8).eval()
    with pytest.raises(ValueError, match='build it with mask_token=True'):
        fill.fill(
            backbone,
            nn.Linear(16, 16),
            torch.zeros(1, 3, 64, 64),
            torch.zeros(8, 8).long(),
            fill.masks_of([0.4], 1, (8, 8)),
        )

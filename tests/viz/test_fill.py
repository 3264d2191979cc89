"""Masks of filled-in images have their ratio, and the pictures show them."""

import numpy as np
import pytest
import torch
from torch import nn

from beit_mm.models import BEiT, DiscreteVAE
from beit_mm.viz import fill
from beit_mm.viz.images import gray_out, magnify, outline_masked, to_uint8

pytestmark = pytest.mark.any_stack

ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
HALF = dict(mean=[127.5] * 3, std=[127.5] * 3)


def test_masks_have_the_ratio_in_blocks_and_are_reproducible():
    masks = fill.make_masks([0.25, 0.5], 4, (14, 14))
    assert np.array_equal(masks, fill.make_masks([0.25, 0.5], 4, (14, 14)))
    for part, ratio in ((masks[:4], 0.25), (masks[4:], 0.5)):
        assert np.abs(part.mean((1, 2)) - ratio).max() <= 0.05
    neighbors = (masks[:, 1:] & masks[:, :-1]).sum() / masks.sum()
    assert neighbors > 0.6  # at most 0.4 for single patches
    assert (fill.make_masks([0.001, 0.99], 1, (3, 3)).sum((1, 2)) >= 1).all()


def test_rows_show_the_input_and_the_decoded_tokens():
    torch.manual_seed(0)
    backbone = BEiT(ARCH, img_size=64, patch_size=8, mask_token=True).eval()
    head, tokenizer = nn.Linear(16, 16), DiscreteVAE(16, width=4, groups=2, blocks=1, width_in=4)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    masks = fill.make_masks([0.4], 2, (8, 8))
    first, *pairs = fill.draw_filled(backbone, head, tokenizer, image, masks, HALF)
    assert np.array_equal(first[0], magnify(image)) and len(pairs) == len(masks)

    view = fill.normalize(image, HALF).expand(2, -1, -1, -1)
    ids = tokenizer.tokens(fill.to_tensor(fill.resize(image, (16, 16), 'lanczos'))[None] / 255)
    filled = fill.fill_in(backbone, head, view, ids.expand(2, -1, -1), torch.from_numpy(masks))
    for mask, pair, guessed, decoded in zip(
        masks, pairs, filled, tokenizer.decode(filled), strict=True
    ):
        visible, predicted, caption = pair
        assert np.array_equal(visible, outline_masked(magnify(gray_out(image, mask)), mask))
        small = to_uint8(decoded.detach().numpy())
        shown = magnify(fill.resize(small, image.shape[:2]))
        assert np.array_equal(predicted, outline_masked(shown, mask))
        true = ids[0].numpy()[mask]
        correct = (guessed.numpy()[mask] == true).mean()
        frequent = np.unique(true, return_counts=True)[1].max() / mask.sum()
        shares = f'{correct:.0%} of the tokens correct (the most frequent token: {frequent:.0%})'
        assert caption == f'{mask.mean():.0%} masked: {shares}'


def test_pictures_keep_the_proportions_of_the_image():
    torch.manual_seed(0)
    backbone = BEiT(ARCH, img_size=64, patch_size=8, mask_token=True, rel_pos_bias='shared').eval()
    head, tokenizer = nn.Linear(16, 16), DiscreteVAE(16, width=4, groups=2, blocks=1, width_in=4)
    image = np.zeros((32, 64, 3), np.uint8)
    masks = fill.make_masks([0.4], 1, (4, 8))
    pairs = fill.draw_filled(backbone, head, tokenizer, image, masks, HALF)
    assert {picture.shape for pair in pairs for picture in pair[:2]} == {(256, 512, 3)}


def test_tokens_of_a_tokenizer_in_training_are_drawn():
    tokenizer = DiscreteVAE(16, width=4, groups=2, blocks=1, width_in=4)
    (drawn,) = fill.draw_tokens(tokenizer, torch.zeros(1, 4, 4, dtype=torch.int64), (16, 16))
    assert drawn.shape == (8, 8, 3) and drawn.dtype == np.uint8

"""Masks of filled-in images have their ratio, and the pictures show them."""

import numpy as np
import pytest
import torch
from torch import nn

from beit_mm.models import BEiT, DiscreteVAE
from beit_mm.viz import fill
from beit_mm.viz.images import outline_masked, to_uint8

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
    columns, (upper, lower) = fill.draw_filled(backbone, head, tokenizer, image, masks, HALF)
    assert len(columns) == 3 and columns[1].startswith(f'{masks[0].mean():.0%} masked')
    assert np.array_equal(upper[0], image)

    view = fill.normalize(image, HALF).expand(2, -1, -1, -1)
    ids = tokenizer.tokens(fill.to_tensor(fill.resize(image, (16, 16), 'lanczos'))[None] / 255)
    filled = fill.fill_in(backbone, head, view, ids.expand(2, -1, -1), torch.from_numpy(masks))
    for mask, above, below, decoded in zip(
        masks, upper[1:], lower[1:], tokenizer.decode(filled), strict=True
    ):
        pixels = mask.repeat(8, 0).repeat(8, 1)
        assert np.array_equal(above[~pixels], image[~pixels]) and (above[pixels] == 128).all()
        expected = outline_masked(to_uint8(decoded.detach().numpy()), mask)
        assert np.array_equal(below, expected)

"""Attention maps are those that the backbone computes with."""

import numpy as np
import pytest
import torch
from small import randomize

from beit_mm.models import BEiT
from beit_mm.models.attention import attention_of_blocks, attention_rollout
from beit_mm.models.relative_position import position_bias

pytestmark = pytest.mark.any_stack

ARCH = dict(embed_dims=24, num_layers=3, num_heads=2, feedforward_channels=32)
KINDS = dict(
    shared=dict(rel_pos_bias='shared', layer_scale=0.1, mask_token=True),
    per_layer=dict(rel_pos_bias='per_layer', out_type='avg_featmap'),
    absolute=dict(abs_pos_embed=True, out_type='featmap'),
)
# Neither square nor of the size of training.
IMAGE = torch.randn(2, 3, 40, 24, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=KINDS)
def backbone(request) -> BEiT:
    torch.manual_seed(0)
    model = BEiT(ARCH, img_size=32, patch_size=8, **KINDS[request.param]).eval()
    return randomize(model, 0.5)


def softmax_by_hand(module, x, grid, bias) -> np.ndarray:
    """Return softmax(q kᵀ / √d + bias) in NumPy and f64, one image and one head at a time."""
    weight, q_bias = module.qkv.weight.double().numpy(), module.q_bias.double().numpy()
    table, dims = module.relative_position_bias_table, len(q_bias)
    if table is not None:
        bias = position_bias(table, module.bias_grid, grid)
    d, out = dims // module.num_heads, []
    for one in x.double().numpy():
        q, k = one @ weight[:dims].T + q_bias, one @ weight[dims : 2 * dims].T
        for head in range(module.num_heads):
            part = slice(head * d, (head + 1) * d)
            scores = q[:, part] @ k[:, part].T / np.sqrt(d)
            scores += 0 if bias is None else bias[head].double().numpy()
            scores = np.exp(scores - scores.max(1, keepdims=True))
            out.append(scores / scores.sum(1, keepdims=True))
    return np.stack(out).reshape(len(x), module.num_heads, *out[0].shape)


@torch.no_grad()
def test_maps_are_the_softmax_computed_by_hand(backbone):
    calls = []
    for block in backbone.blocks:
        block.attn.register_forward_pre_hook(lambda *call: calls.append(call))
    maps = attention_of_blocks(backbone, IMAGE)
    assert [tuple(found.shape) for found in maps] == [(2, 2, 16, 16)] * 3
    for found, (module, inputs) in zip(maps, calls, strict=True):
        expected = softmax_by_hand(module, *inputs[:3])
        assert (found.sum(-1) - 1).abs().max() <= 1e-6 and found.min() >= 0
        assert np.abs(found.numpy() - expected).max() <= 1e-6


@torch.no_grad()
def test_reading_maps_leaves_the_backbone_unchanged(backbone):
    before = backbone(IMAGE)[0]
    attention_of_blocks(backbone, IMAGE)
    with pytest.raises(ValueError, match='multiples of patch_size'):
        attention_of_blocks(backbone, IMAGE[..., :-1])
    assert not any(block.attn._forward_pre_hooks for block in backbone.blocks)
    assert torch.equal(backbone(IMAGE)[0], before)


def test_rollout_is_the_product_of_all_blocks(backbone):
    means = [found.mean(1).double() for found in attention_of_blocks(backbone, IMAGE)]
    product = np.eye(16)
    for mean, rollout in zip(means, attention_rollout(means), strict=True):
        product = (mean[1].numpy() + np.eye(16)) / 2 @ product
        assert np.abs(rollout[1].numpy() - product).max() <= 1e-12
        assert (rollout.sum(-1) - 1).abs().max() <= 1e-6

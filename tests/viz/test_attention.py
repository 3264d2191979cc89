"""Attention maps are what the backbone computes with, and the pixels drawn are those of the patches meant."""

import numpy as np
import pytest
import torch

from beit_mm.models import BEiT
from beit_mm.models.attention import (
    attention_of_blocks,
    attention_rollout,
    attention_weights,
)
from beit_mm.models.plain_layers import scaled_linear
from beit_mm.models.relative_position import position_bias, relative_position_index
from beit_mm.viz import attention

pytestmark = pytest.mark.any_stack

ARCH = dict(embed_dims=24, num_layers=3, num_heads=2, feedforward_channels=32)
KINDS = dict(
    shared=dict(rel_pos_bias='shared', layer_scale=0.1, mask_token=True),
    per_layer=dict(rel_pos_bias='per_layer', out_type='avg_featmap'),
    absolute=dict(abs_pos_embed=True, out_type='featmap'),
)


@pytest.fixture(params=KINDS)
def backbone(request) -> BEiT:
    torch.manual_seed(0)
    model = BEiT(ARCH, img_size=32, patch_size=8, **KINDS[request.param]).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


IMAGE = torch.randn(
    2, 3, 40, 24, generator=torch.Generator().manual_seed(1)
)  # not the size of training, nor square


def inputs_of(backbone: BEiT, image: torch.Tensor) -> list[tuple]:
    """What each block's attention was called with, and what it gave."""
    seen = []
    hooks = [
        b.attn.register_forward_hook(lambda _, inputs, out: seen.append((inputs, out)))
        for b in backbone.blocks
    ]
    with torch.no_grad():
        backbone(image)
    for hook in hooks:
        hook.remove()
    return seen


def by_hand(module, x, grid, bias) -> np.ndarray:
    """softmax(q kᵀ / √d + bias) in NumPy and f64, one image and one head at a time."""
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


def test_maps_are_the_softmax_computed_by_hand_and_their_rows_sum_to_one(backbone):
    maps = attention_of_blocks(backbone, IMAGE)
    assert [tuple(found.shape) for found in maps] == [(2, 2, 16, 16)] * 3
    with torch.no_grad():
        for found, block, (inputs, _) in zip(
            maps, backbone.blocks, inputs_of(backbone, IMAGE), strict=True
        ):
            assert (found.sum(-1) - 1).abs().max() <= 1e-6 and found.min() >= 0
            assert np.abs(found.numpy() - by_hand(block.attn, *inputs[:3])).max() <= 1e-6


def test_maps_times_values_are_what_the_block_computed(backbone):
    for found, block, (inputs, out) in zip(
        attention_of_blocks(backbone, IMAGE),
        backbone.blocks,
        inputs_of(backbone, IMAGE),
        strict=True,
    ):
        with torch.no_grad():
            v = block.attn.project_qkv(*inputs)[2]
            again = scaled_linear(
                block.attn.proj, (found @ v).transpose(1, 2).flatten(2), block.gamma_1
            )
        assert (again - out).abs().max() <= 1e-6 * out.abs().max()


def test_rows_of_some_patches_are_those_rows(backbone):
    block, (inputs, _) = backbone.blocks[0], inputs_of(backbone, IMAGE)[0]
    index = torch.tensor([[3, 1], [15, 0]])
    with torch.no_grad():
        whole, some = (
            attention_weights(block.attn, *inputs),
            attention_weights(block.attn, *inputs[:3], index),
        )
    for image, rows in enumerate(index):
        assert torch.allclose(some[image], whole[image][:, rows], atol=1e-6)


def test_looking_changes_nothing(backbone):
    with torch.no_grad():
        before = backbone(IMAGE)[0]
    attention_of_blocks(backbone, IMAGE)
    assert not any(block.attn._forward_pre_hooks for block in backbone.blocks)
    with pytest.raises(ValueError, match='multiples of patch_size'):
        attention_of_blocks(backbone, IMAGE[..., :-1])
    assert not any(block.attn._forward_pre_hooks for block in backbone.blocks)
    with torch.no_grad():
        assert torch.equal(backbone(IMAGE)[0], before)


def test_rollout_is_the_product_of_all_blocks_and_its_rows_sum_to_one(backbone):
    means = [found.mean(1).double() for found in attention_of_blocks(backbone, IMAGE)]
    through = attention_rollout(means)
    product = np.eye(16)
    for mean, found in zip(means, through, strict=True):
        product = (mean[1].numpy() + np.eye(16)) / 2 @ product
        assert (
            np.abs(found[1].numpy() - product).max() <= 1e-12
            and (found.sum(-1) - 1).abs().max() <= 1e-6
        )


def test_rollout_follows_a_path_through_two_blocks():
    first, second = torch.eye(3), torch.eye(3)
    first[1], second[2] = (
        torch.tensor([1.0, 0, 0]),
        torch.tensor([0, 1.0, 0]),
    )  # 1 looks at 0, later 2 at 1
    assert attention_rollout([first, second])[-1][2].tolist() == [0.25, 0.25, 0.5]


@pytest.mark.parametrize('size', [(40, 24), (83, 50), (37, 200)])
@pytest.mark.parametrize('offset', [(0, 0), (1, 0), (0, -1), (2, 1)])
def test_planted_attention_lights_exactly_the_pixels_of_its_patch(size, offset):
    """A head attends to the patch `offset` (rows, columns) away, whose pixels must be bright."""
    grid = (5, 3)
    model = BEiT(ARCH, img_size=(40, 24), patch_size=8, rel_pos_bias='shared').eval()
    q, k = 1 + 1 * 3 + 1, 1 + (1 + offset[0]) * 3 + 1 + offset[1]
    with torch.no_grad():
        model.rel_pos_bias.relative_position_bias_table[relative_position_index(grid)[q, k]] = 50.0
    image = np.full((*size, 3), 90, np.uint8)
    patch = attention.patch_at(size[1] // 2, int(size[0] * 0.3), size, grid)
    assert patch == (1, 1)
    values = attention.attention_from_patch(model, IMAGE[:1], patch, grid, layer=1)['head-01']
    target = patch[0] + offset[0], patch[1] + offset[1]
    assert [values[target].round(3), values.sum().round(3)] == [1, 1]

    drawn = attention.overlay_heat(image, values)
    bright = (drawn == drawn.reshape(-1, 3)[drawn.sum(-1).argmax()]).all(-1)
    assert np.array_equal(bright, pixels_of(target, size, grid))
    framed = attention.frame_patch(drawn, patch, grid)
    inside = pixels_of(patch, size, grid)
    assert np.array_equal(framed[inside], drawn[inside])
    changed = np.argwhere((framed != drawn).any(-1))
    low, high = np.argwhere(inside).min(0), np.argwhere(inside).max(0)
    assert (changed.min(0) == low - 2).all() and (changed.max(0) == high + 2).all()


def pixels_of(patch: tuple[int, int], size: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """Return bool [H, W], True in a patch."""
    found = np.zeros(size, bool)
    for y, x in np.ndindex(size):
        found[y, x] = attention.patch_at(x, y, size, grid) == patch
    return found


@pytest.mark.parametrize('x, y', [(-1, 0), (24, 0), (0, 40)])
def test_a_pixel_outside_is_an_error(x, y):
    with pytest.raises(ValueError, match=f'no pixel {x},{y} in an image of 24×40: expected 0,0 to'):
        attention.patch_at(x, y, (40, 24), (5, 3))


def test_pooling_averages_over_attending_and_sums_over_attended_patches():
    rows = torch.rand(2, 15, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    small, cells = attention.pool(rows, (5, 3), 2)
    first, upper_right = [0, 1, 3, 4], [2, 5]  # the right border is one column wide
    assert cells == (3, 2)
    assert (small.sum(-1).mean(0)[0] - rows[:, first].sum(-1).mean()).abs() <= 1e-12
    assert (small[1, 0, 1] - rows[1][first][:, upper_right].sum(1).mean()).abs() <= 1e-12
    assert (small[1, 5, 0] - rows[1, 14, first].sum()).abs() <= 1e-12
    assert torch.equal(attention.pool(rows, (5, 3), 1)[0], rows)


def test_bytes_keep_each_value_to_half_a_step_of_its_row():
    rows = np.random.default_rng(0).dirichlet(np.full(50, 0.1), (3, 50)).astype(np.float32)
    rows[0, 0] = 0
    levels, maximum = attention.quantize(rows)
    assert levels.dtype == np.uint8 and np.array_equal(maximum, rows.max(-1))
    assert (levels.max(-1)[maximum > 0] == 255).all()
    restored = levels.astype(np.float32) / 255 * maximum[..., None]
    assert (np.abs(restored - rows) <= maximum[..., None] / 510 + 1e-9).all()

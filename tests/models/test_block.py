"""A block of BEiT: attention is torch's, gradients are deterministic, drop path skips images."""

import pytest
import torch
import torch.nn.functional as F
from flops import Flops
from torch import nn

from beit_mm.models.block import Block, attend, take_bias_rows, take_rows
from beit_mm.models.plain_layers import scaled_linear

pytestmark = pytest.mark.any_stack


def test_drop_path_drops_images_and_keeps_the_mean():
    block, x = Block(8, 2, 16, 0.5, None, None), torch.ones(4000, 1, 1, dtype=torch.float64)
    out = x * block._draw_drop_path(x)
    assert set(out.unique().tolist()) == {0.0, 2.0}
    assert out.mean().item() == pytest.approx(1, abs=0.05)


def compute_plainly(block, x, scales, rows):
    """Return the output of a block that computes its branches for all images."""
    attended = block.attn(block.norm1(x), (2, 2), None, rows)
    x = x if rows is None else take_rows(x, rows)
    x = x + block.gamma_1 * attended * scales[0]
    return x + block.gamma_2 * block.mlp(block.norm2(x)) * scales[1]


ROWS = [None, torch.tensor([[2, 0]] * 3 + [[1, 4]] * 2)]
KEPT = [
    ((1, 0, 1, 0, 0), (0, 1, 1, 1, 1)),
    ((1, 1, 1, 1, 1), (0, 0, 0, 0, 0)),
    ((0, 0, 0, 0, 0), (1, 1, 1, 1, 1)),
]


@pytest.mark.parametrize('rows', ROWS, ids=['all rows', 'some rows'])
@pytest.mark.parametrize('kept', KEPT)
def test_dropped_branches_are_not_computed_and_the_result_is_the_same(kept, rows):
    torch.manual_seed(0)
    block = Block(8, 2, 16, 0.5, 0.3, (2, 2)).double()
    nn.init.normal_(block.attn.relative_position_bias_table)
    scales = [2 * torch.tensor(images, dtype=torch.float64).view(-1, 1, 1) for images in kept]
    x = torch.randn(5, 5, 8, dtype=torch.float64, requires_grad=True)
    with Flops() as counter:
        found = block.branches(x, (2, 2), None, rows, *scales)
    expected = compute_plainly(block, x, scales, rows)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    cotangent = torch.randn_like(expected)
    leaves = [x, *block.parameters()]
    gradients = [torch.autograd.grad(out, leaves, cotangent) for out in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)
    queries = 5 if rows is None else 2
    projections = 2 * 8 * 8 * (queries + 5 + 5 + queries)  # q, k, v and the output
    products = 2 * 2 * 8 * 5 * queries  # q·kᵀ and ·v
    mlp = 2 * 2 * 8 * 16 * queries
    assert counter.total == sum(kept[0]) * (projections + products) + sum(kept[1]) * mlp


def test_under_autocast_a_block_is_as_exact_as_bfloat16():
    torch.manual_seed(0)
    block, x = Block(32, 2, 64, 0.5, 1e-5, None), torch.randn(4, 5, 32)
    for gamma in (block.gamma_1, block.gamma_2):
        gamma.data *= 1e5 * torch.rand(32)
    scales = [torch.tensor(kept).view(-1, 1, 1) * 2.0 for kept in ([1, 0, 1, 1], [1, 1, 0, 1])]
    exact = compute_plainly(block, x, scales, None)
    with torch.autocast('cpu', torch.bfloat16):
        found = block.branches(x, (2, 2), None, None, *scales)
    assert found.dtype == torch.float32
    assert (found - exact).norm() <= 5e-3 * (exact - x).norm()
    parameters = list(block.parameters())
    gradients = [torch.autograd.grad(out.square().sum(), parameters) for out in (found, exact)]
    for ours, expected in zip(*gradients, strict=True):
        assert (ours - expected).norm() <= 2e-2 * expected.norm()


def test_scaled_linear_is_the_scaled_output_and_does_not_keep_it():
    torch.manual_seed(0)
    linear = nn.Linear(3, 5).double()
    gamma = torch.randn(5, dtype=torch.float64, requires_grad=True)
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    kept_shapes = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept_shapes.append(tuple(t.shape)) or t, lambda t: t
    ):
        found = scaled_linear(linear, x, gamma)
    expected = gamma * linear(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    cotangent = torch.randn_like(expected)
    leaves = [x, gamma, *linear.parameters()]
    gradients = [torch.autograd.grad(out, leaves, cotangent) for out in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-14)
    assert (7, 5) not in kept_shapes


def test_the_gradient_of_bias_rows_is_deterministic():
    """On two threads, where the gradient of plain indexing is summed in any order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        bias = torch.randn(3, 65, 65, requires_grad=True)
        rows = torch.rand(32, 65).argsort(1)[:, :25]
        weights = torch.randn(32, 3, 25, 65)
        assert torch.equal(take_bias_rows(bias, rows), bias[:, rows].transpose(0, 1))
        first, *others = [
            torch.autograd.grad((take_bias_rows(bias, rows) * weights).sum(), bias)[0]
            for _ in range(20)
        ]
        assert all(torch.equal(first, other) for other in others)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-12), (torch.bfloat16, 2e-2)])
def test_attention_with_a_trained_bias_is_torchs(dtype, tolerance):
    torch.manual_seed(0)
    shapes = [(2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 8), (3, 5, 7)]
    inputs = [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    found = attend(*inputs)
    expected = F.scaled_dot_product_attention(*exact[:3], attn_mask=exact[3])
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()
    found.double().square().sum().backward()
    expected.square().sum().backward()
    for ours, theirs in zip(inputs, exact, strict=True):
        assert (ours.grad - theirs.grad).norm() <= tolerance * theirs.grad.norm()

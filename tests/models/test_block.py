"""A block of BEiT: attention as torch has it, gradients the same each time, whole images dropped."""

import pytest
import torch
import torch.nn.functional as F
from flops import Flops
from torch import nn

from beit_mm.models.block import Block, add_branch, attend, rows_of, scaled, take


def test_drop_path_drops_whole_images_and_keeps_the_mean():
    block, x = Block(8, 2, 16, 0.5, None, None), torch.ones(4000, 1, 1, dtype=torch.float64)
    out = x * block._kept(x)
    assert set(out.unique().tolist()) == {0.0, 2.0}
    assert out.mean().item() == pytest.approx(1, abs=0.05)


def by_hand(block, x, kept, index):
    """The block of all images, its branches multiplied by what is kept of them."""
    attended = block.gamma_1 * block.attn(block.norm1(x), (2, 2), None, index) * kept[0]
    x = (x if index is None else take(x, index)) + attended
    return x + block.gamma_2 * block.mlp(block.norm2(x)) * kept[1]


@pytest.mark.parametrize(
    'index', [None, torch.tensor([[2, 0]] * 3 + [[1, 4]] * 2)], ids=['all rows', 'some rows']
)
@pytest.mark.parametrize(
    'shares', [[(1, 0, 1, 0, 0), (0, 1, 1, 1, 1)], [(1,) * 5, (0,) * 5], [(0,) * 5, (1,) * 5]]
)
def test_branches_that_are_dropped_are_not_computed_and_give_the_same(shares, index):
    torch.manual_seed(0)
    block = Block(8, 2, 16, 0.5, 0.3, (2, 2)).double()
    nn.init.normal_(block.attn.relative_position_bias_table)
    kept = [torch.tensor(share, dtype=torch.float64).view(-1, 1, 1) * 2 for share in shares]
    x = torch.randn(5, 5, 8, dtype=torch.float64, requires_grad=True)
    with Flops() as counter:
        found = block.branches(x, (2, 2), None, index, *kept)
    wanted = by_hand(block, x, kept, index)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)
    cotangent = torch.randn_like(wanted)
    gradients = [
        torch.autograd.grad(out, [x, *block.parameters()], cotangent) for out in (found, wanted)
    ]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)
    rows = 5 if index is None else 2
    attention = (
        2 * 8 * 8 * (rows + 5 + 5 + rows) + 2 * 2 * 8 * 5 * rows
    )  # q, k, v and projection; q·kᵀ and ·v
    mlp = 2 * 2 * 8 * 16 * rows
    assert counter.total == sum(shares[0]) * attention + sum(shares[1]) * mlp


def test_under_autocast_dropped_branches_and_weights_that_are_scaled_are_as_exact_as_bfloat16():
    torch.manual_seed(0)
    block, x = Block(32, 2, 64, 0.5, 1e-5, None), torch.randn(4, 5, 32)
    for gamma in (block.gamma_1, block.gamma_2):
        gamma.data *= 1e5 * torch.rand(32)
    kept = [torch.tensor(share).view(-1, 1, 1) * 2.0 for share in ([1, 0, 1, 1], [1, 1, 0, 1])]
    exact = by_hand(block, x, kept, None)
    with torch.autocast('cpu', torch.bfloat16):
        found = block.branches(x, (2, 2), None, None, *kept)
    assert found.dtype == torch.float32
    assert (found - exact).norm() <= 5e-3 * (exact - x).norm()
    gradients = [
        torch.autograd.grad(out.square().sum(), list(block.parameters())) for out in (found, exact)
    ]
    for mine, wanted in zip(*gradients, strict=True):
        assert (mine - wanted).norm() <= 2e-2 * wanted.norm()


def test_scaled_is_the_scaled_output_and_keeps_none_of_it():
    torch.manual_seed(0)
    linear, gamma, x = (
        nn.Linear(3, 5),
        torch.randn(5, requires_grad=True),
        torch.randn(7, 3, requires_grad=True),
    )
    linear, gamma, x = linear.double(), gamma.double(), x.double()
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: sizes.append(tuple(t.shape)) or t, lambda t: t
    ):
        found = scaled(linear, x, gamma)
    wanted = gamma * linear(x)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-14)
    cotangent = torch.randn_like(wanted)
    leaves = [x, gamma, *linear.parameters()]
    gradients = [torch.autograd.grad(out, leaves, cotangent) for out in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-14)
    assert (7, 5) not in sizes
    with torch.no_grad():
        assert torch.equal(scaled(linear, x, gamma), gamma * linear(x))


def test_a_branch_is_dropped_per_sample_within_torch_func():
    weight, x = torch.randn(8, 8, dtype=torch.float64), torch.randn(4, 1, 5, 8, dtype=torch.float64)
    kept = torch.tensor([0.0, 2, 2, 0], dtype=torch.float64).view(4, 1, 1, 1)

    def loss(weight, x, kept):
        return add_branch(lambda x, _: x @ weight, x, kept).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(weight, x, kept)
    wanted = [
        torch.func.grad(lambda w, i=i: (x[i] + kept[i] * (x[i] @ w)).square().sum())(weight)
        for i in range(4)
    ]
    torch.testing.assert_close(found, torch.stack(wanted))
    assert not found[0].any() and found[1].any()


def test_rows_of_a_bias_have_the_same_gradient_each_time():
    """On two threads, where plain indexing sums it in any order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        bias, index = (
            torch.randn(3, 65, 65, requires_grad=True),
            torch.rand(32, 65).argsort(1)[:, :25],
        )
        weights = torch.randn(32, 3, 25, 65)
        assert torch.equal(rows_of(bias, index), bias[:, index].transpose(0, 1))
        first, *others = [
            torch.autograd.grad((rows_of(bias, index) * weights).sum(), bias)[0] for _ in range(20)
        ]
        assert all(torch.equal(first, other) for other in others)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-12), (torch.bfloat16, 2e-2)])
def test_attention_with_a_trained_bias_is_that_of_torch(dtype, tolerance):
    torch.manual_seed(0)
    q, k, v, bias = (
        torch.randn(*shape).to(dtype).requires_grad_()
        for shape in [(2, 3, 5, 8)] + [(2, 3, 7, 8)] * 2 + [(3, 5, 7)]
    )
    exact = [x.detach().double().requires_grad_() for x in (q, k, v, bias)]
    found, expected = (
        attend(q, k, v, bias),
        F.scaled_dot_product_attention(*exact[:3], attn_mask=exact[3]),
    )
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()
    found.double().square().sum().backward()
    expected.square().sum().backward()
    for mine, theirs in zip((q, k, v, bias), exact, strict=True):
        assert (mine.grad - theirs.grad).norm() <= tolerance * theirs.grad.norm()

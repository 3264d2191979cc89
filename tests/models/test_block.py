"""A block of BEiT: attention as torch has it, gradients the same each time, whole images dropped."""

import pytest
import torch
import torch.nn.functional as F

from beit_mm.models.block import Block, attend, rows_of


def test_drop_path_drops_whole_images_and_keeps_the_mean():
    block, x = Block(8, 2, 16, 0.5, None, None), torch.ones(4000, 1, 1, dtype=torch.float64)
    out = x * block._kept(x)
    assert set(out.unique().tolist()) == {0.0, 2.0}
    assert out.mean().item() == pytest.approx(1, abs=0.05)


def test_rows_of_a_bias_have_the_same_gradient_each_time():
    """On two threads, where plain indexing sums it in any order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        bias, index = torch.randn(3, 65, 65, requires_grad=True), torch.rand(32, 65).argsort(1)[:, :25]
        weights = torch.randn(32, 3, 25, 65)
        assert torch.equal(rows_of(bias, index), bias[:, index].transpose(0, 1))
        first, *others = [torch.autograd.grad((rows_of(bias, index) * weights).sum(), bias)[0] for _ in range(20)]
        assert all(torch.equal(first, other) for other in others)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-12), (torch.bfloat16, 2e-2)])
def test_attention_with_a_trained_bias_is_that_of_torch(dtype, tolerance):
    torch.manual_seed(0)
    q, k, v, bias = (
        torch.randn(*shape).to(dtype).requires_grad_() for shape in [(2, 3, 5, 8)] + [(2, 3, 7, 8)] * 2 + [(3, 5, 7)]
    )
    exact = [x.detach().double().requires_grad_() for x in (q, k, v, bias)]
    found, expected = attend(q, k, v, bias), F.scaled_dot_product_attention(*exact[:3], attn_mask=exact[3])
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()
    found.double().square().sum().backward()
    expected.square().sum().backward()
    for mine, theirs in zip((q, k, v, bias), exact, strict=True):
        assert (mine.grad - theirs.grad).norm() <= tolerance * theirs.grad.norm()

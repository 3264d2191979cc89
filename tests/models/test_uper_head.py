"""The UPerNet head that convolves coarse levels at their own resolution is mmseg's."""

import pytest
import torch
from flops import Flops
from mmseg.models import UPerHead as MMSegUPerHead
from mmseg.models.utils import resize

from beit_mm.models.uper_head import UPerHead, convolve_resized

SETTINGS = dict(
    in_channels=[6] * 4, in_index=[0, 1, 2, 3], pool_scales=(1, 2), channels=5, num_classes=3, norm_cfg=dict(type='BN')
)  # fmt: skip


def make_heads(**settings):
    """Return our head and mmseg's with the same random weights and statistics, and their inputs."""
    torch.manual_seed(0)
    ours, theirs = UPerHead(**SETTINGS | settings), MMSegUPerHead(**SETTINGS | settings)
    state = theirs.state_dict()
    for value in state.values():
        if value.is_floating_point():
            value.uniform_()
    ours.load_state_dict(state)
    return ours, theirs, [torch.randn(2, 6, 32 >> i, 24 >> i) for i in range(4)]


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize(
    'sizes', [[(16, 16), (8, 8), (4, 4)], [(17, 30), (9, 14), (5, 3), (1, 1)], [(7, 5)]]
)
def test_it_is_the_convolution_of_the_resized_levels_with_its_gradients(sizes, align_corners):
    torch.manual_seed(1)
    levels = [
        torch.randn(2, 3 + i, *size, dtype=torch.float64, requires_grad=True)
        for i, size in enumerate(sizes)
    ]
    channels = sum(level.size(1) for level in levels)
    weight = torch.randn(4, channels, 3, 3, dtype=torch.float64, requires_grad=True)
    found = convolve_resized(levels, weight, align_corners)
    resized = [
        resize(level, sizes[0], mode='bilinear', align_corners=align_corners) for level in levels
    ]
    expected = torch.conv2d(torch.cat(resized, 1), weight, padding=1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    cotangent = torch.randn_like(expected)
    leaves = [weight, *levels]
    gradients = [torch.autograd.grad(out, leaves, cotangent) for out in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-11)


@pytest.mark.parametrize('align_corners', [False, True])
def test_in_evaluation_it_is_mmsegs_head_except_for_rounding(align_corners):
    ours, theirs, inputs = make_heads(align_corners=align_corners)
    inputs = [x.double() for x in inputs]
    with torch.inference_mode():
        found, expected = ours.double().eval()(inputs), theirs.double().eval()(inputs)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_its_last_convolution_takes_a_third_of_the_operations():
    ours, theirs, inputs = make_heads()
    operations = []
    for head in (ours, theirs):
        with torch.no_grad(), Flops() as counter:
            head.eval()(inputs)
        operations.append(counter.total)
    images, positions, kernel, channels_in, channels_out = 2, 32 * 24, 9, 4 * 5, 5
    full = 2 * images * positions * kernel * channels_in * channels_out
    assert operations[1] - operations[0] == full * (1 - (1 + 1 / 4 + 1 / 16 + 1 / 64) / 4)


@pytest.mark.parametrize('case', ['training', 'autocast', 'no norm'])
def test_otherwise_it_is_mmsegs_to_the_bit(case):
    ours, theirs, inputs = make_heads(**dict(norm_cfg=None) if case == 'no norm' else {})
    found = []
    for head in (ours, theirs):
        head.train(case == 'training')
        torch.manual_seed(2)  # of dropout
        with torch.autocast('cpu', torch.bfloat16, enabled=case == 'autocast'):
            found.append(head(inputs))
    assert torch.equal(*found)


@pytest.mark.parametrize('attached', ['hook', 'hook of the layer around it', 'weight_norm'])
def test_a_convolution_with_something_attached_is_called(attached):
    ours, theirs, inputs = make_heads()
    called = []
    for head in (ours, theirs):
        last = head.eval().fpn_bottleneck
        if attached == 'weight_norm':
            torch.nn.utils.weight_norm(last.conv).weight_g.data *= 3
        else:
            layer = last.conv if attached == 'hook' else last
            layer.register_forward_hook(lambda *_: called.append(1))
    with torch.no_grad():
        assert torch.equal(ours(inputs), theirs(inputs))
    assert len(called) == 2 * (attached != 'weight_norm')

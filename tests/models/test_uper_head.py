"""The UPerNet head that convolves coarse levels where they are coarse is mmseg's."""

import pytest
import torch
from flops import Flops
from mmseg.models import UPerHead as Theirs
from mmseg.models.utils import resize

from beit_mm.models.uper_head import UPerHead, convolve_resized

SETTINGS = dict(
    in_channels=[6] * 4,
    in_index=[0, 1, 2, 3],
    pool_scales=(1, 2),
    channels=5,
    num_classes=3,
    norm_cfg=dict(type='BN'),
)


def heads(**settings):
    """Ours and mmseg's with the same random weights and running statistics, and what they read."""
    torch.manual_seed(0)
    ours, theirs = UPerHead(**SETTINGS | settings), Theirs(**SETTINGS | settings)
    state = {
        k: torch.rand_like(v) if v.is_floating_point() else v
        for k, v in theirs.state_dict().items()
    }
    for head in (ours, theirs):
        head.load_state_dict(state)
    return ours, theirs, [torch.randn(2, 6, 32 >> i, 24 >> i) for i in range(4)]


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize(
    'sizes', [[(16, 16), (8, 8), (4, 4)], [(17, 30), (9, 14), (5, 3), (1, 1)], [(7, 5)]]
)
def test_it_is_the_convolution_of_the_resized_levels_and_so_are_its_gradients(sizes, align_corners):
    torch.manual_seed(1)
    levels = [
        torch.randn(2, 3 + i, *size, dtype=torch.float64, requires_grad=True)
        for i, size in enumerate(sizes)
    ]
    weight = torch.randn(
        4, sum(3 + i for i in range(len(sizes))), 3, 3, dtype=torch.float64, requires_grad=True
    )
    found = convolve_resized(levels, weight, align_corners)
    resized = [
        resize(level, sizes[0], mode='bilinear', align_corners=align_corners) for level in levels
    ]
    wanted = torch.conv2d(torch.cat(resized, 1), weight, padding=1)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    cotangent = torch.randn_like(wanted)
    gradients = [torch.autograd.grad(out, [weight, *levels], cotangent) for out in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-11)


@pytest.mark.parametrize('align_corners', [False, True])
def test_in_evaluation_it_is_mmsegs_head_but_for_rounding(align_corners):
    ours, theirs, inputs = heads(align_corners=align_corners)
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(inputs), theirs.eval()(inputs), rtol=1e-5, atol=1e-5)
        inputs = [x.double() for x in inputs]
        torch.testing.assert_close(
            ours.double()(inputs), theirs.double()(inputs), rtol=1e-12, atol=1e-12
        )


def test_its_last_convolution_takes_a_third_of_the_operations():
    ours, theirs, inputs = heads()
    operations = []
    for head in (ours, theirs):
        with torch.no_grad(), Flops() as counter:
            head.eval()(inputs)
        operations.append(counter.total)
    whole = (
        2 * 2 * 32 * 24 * 9 * (4 * 5) * 5
    )  # multiply and add, images, places, taps, channels in and out
    assert operations[1] - operations[0] == whole * (1 - (1 + 1 / 4 + 1 / 16 + 1 / 64) / 4)


@pytest.mark.parametrize('case', ['training', 'autocast', 'no norm'])
def test_else_it_is_mmsegs_to_the_bit(case):
    ours, theirs, inputs = heads(**dict(norm_cfg=None) if case == 'no norm' else {})
    ours.train(case == 'training'), theirs.train(case == 'training')
    found = []
    for head in (ours, theirs):
        torch.manual_seed(2)  # of dropout
        with torch.autocast('cpu', torch.bfloat16, enabled=case == 'autocast'):
            found.append(head(inputs))
    assert torch.equal(*found)


@pytest.mark.parametrize('attached', ['hook', 'hook of the layer around it', 'weight_norm'])
def test_a_convolution_with_something_attached_is_called(attached):
    ours, theirs, inputs = heads()
    called = []
    for head in (ours, theirs):
        last = head.eval().fpn_bottleneck
        if attached == 'weight_norm':
            torch.nn.utils.weight_norm(last.conv).weight_g.data *= 3
        else:
            (last.conv if attached == 'hook' else last).register_forward_hook(
                lambda *_: called.append(1)
            )
    with torch.no_grad():
        assert torch.equal(ours(inputs), theirs(inputs))
    assert len(called) == 2 * (attached != 'weight_norm')


def test_an_exported_graph_has_mmsegs_convolution():
    ours, theirs, inputs = heads()
    found = [torch.export.export(head.eval(), (inputs,)).graph.nodes for head in (ours, theirs)]
    operations = [
        [str(node.target) for node in nodes if node.op == 'call_function'] for nodes in found
    ]
    assert operations[0] == operations[1]

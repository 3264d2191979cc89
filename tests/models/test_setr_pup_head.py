"""The decoder's size, arithmetic and place in mmseg: alone, under a segmentor, and beside mmseg's own heads."""

import re

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.models import EncoderDecoder  # noqa: F401 (registers)
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from beit_mm.models.setr_pup_head import SETRPUPHead

ARCH = dict(embed_dims=32, num_layers=4, num_heads=4, feedforward_channels=64)
BN = dict(type='BN')


def head(**kwargs):
    torch.manual_seed(0)
    return SETRPUPHead(**{**dict(in_channels=8, channels=16, num_classes=5, norm_cfg=BN), **kwargs})


def segmentor(decode_head, neck=None, auxiliary_head=None, out_indices=(0, 1, 2, 3)):
    torch.manual_seed(0)
    backbone = dict(
        type='beit_mm.BEiT', arch=ARCH, img_size=32, patch_size=8, layer_scale=0.1, rel_pos_bias='per_layer',
        out_type='featmap', out_indices=out_indices,
    )  # fmt: skip
    model = MODELS.build(
        dict(
            type='EncoderDecoder',
            backbone=backbone,
            neck=neck,
            decode_head=decode_head,
            auxiliary_head=auxiliary_head,
        )
    )
    model.init_weights()
    return model


def pup(**kwargs):
    base = dict(
        type='beit_mm.SETRPUPHead',
        in_channels=32,
        channels=16,
        num_stages=3,
        num_classes=3,
        norm_cfg=BN,
    )
    return dict(base, **kwargs)


def batch(n=4, side=32):
    """Images whose left part is dark, middle grey, right bright; the label says which. Borders differ by image."""
    borders = torch.arange(n)[:, None] * 2 + torch.tensor([8, 18])
    label = (torch.arange(side) >= borders[..., None]).sum(1)[:, None].expand(-1, side, -1)
    images = (label[:, None] - 1.0).expand(-1, 3, -1, -1) + 0.1 * torch.randn(n, 3, side, side)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=one[None])) for one in label]
    return images, samples


@pytest.mark.parametrize('upsample', ['bilinear', 'deconv'])
@pytest.mark.parametrize('num_stages', [1, 3, 4])
def test_each_stage_doubles_the_map(upsample, num_stages):
    logits = head(num_stages=num_stages, upsample=upsample)((torch.randn(2, 8, 3, 5),))
    assert logits.shape == (2, 5, 3 * 2**num_stages, 5 * 2**num_stages)


@pytest.mark.parametrize('upsample, kernel', [('bilinear', 3), ('deconv', 4)])
def test_parameter_count(upsample, kernel):
    count = sum(
        p.numel()
        for p in head(
            in_channels=768, channels=256, num_classes=150, upsample=upsample
        ).parameters()
    )
    convs = kernel**2 * 256 * (768 + 3 * 256) + 4 * 2 * 256
    assert count == 2 * 768 + convs + 256 * 150 + 150


def test_bilinear_is_what_mmseg_computes():
    """Same weights, same logits as mmseg's SETRUPHead, although the classifier comes before the last ×2."""
    ours = head(num_stages=2).eval()
    shape = dict(in_channels=8, channels=16, num_classes=5, num_convs=2, up_scale=2, kernel_size=3)
    theirs = MODELS.build(dict(type='SETRUPHead', norm_cfg=BN, **shape)).eval()
    names = {k: re.sub(r'up_convs\.(\d+)\.0', r'stages.\1', k) for k in theirs.state_dict()}
    theirs.load_state_dict({k: ours.state_dict()[name] for k, name in names.items()})
    x = torch.randn(2, 8, 4, 6)
    torch.testing.assert_close(ours((x,)), theirs((x,)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('upsample', ['bilinear', 'deconv'])
def test_moving_the_features_moves_the_logits(upsample):
    """Translation by one patch is a translation by 2**num_stages pixels, away from the border."""
    net = head(num_stages=2, upsample=upsample).eval()
    x = torch.randn(1, 8, 12, 12)
    moved = net((F.pad(x, (1, 0, 1, 0))[..., :12, :12],))
    torch.testing.assert_close(
        moved[..., 16:32, 16:32], net((x,))[..., 12:28, 12:28], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize('upsample', ['bilinear', 'deconv'])
def test_scale_and_offset_of_the_features_do_not_matter(upsample):
    """The LayerNorm stands for the final norm that a BEiT feature map never had."""
    net, x = head(upsample=upsample).eval(), torch.randn(2, 8, 3, 3)
    torch.testing.assert_close(net((30 * x + 7,)), net((x,)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('upsample', ['bilinear', 'deconv'])
def test_every_parameter_gets_gradient_and_overfits(upsample):
    """Main head on the last block, two auxiliary heads lower down: gradients everywhere, and the loss falls."""
    aux = [
        pup(num_stages=1, in_index=i, loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4))
        for i in (1, 2)
    ]
    model = segmentor(pup(in_index=3, upsample=upsample), auxiliary_head=aux)
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-2), []
    images, samples = batch()
    for _ in range(20):
        loss, log = model.parse_losses(model.loss(images, samples))
        optimizer.zero_grad()
        loss.backward()
        idle = [n for n, p in model.named_parameters() if p.grad is None]
        optimizer.step()
        losses.append(loss.item())
    assert idle == []
    assert {'decode.loss_ce', 'aux_0.loss_ce', 'aux_1.loss_ce'} <= set(log)
    assert (
        losses[0] > 1.8 * 0.9 and losses[-1] < 0.25 * losses[0]
    )  # (1 + 2·0.4)·ln 3 = 1.98 at chance


def test_upernet_on_the_pyramid_of_mmseg_trains():
    """mmseg's Feature2Pyramid (deconvolution ×4, ×2, 1, max-pool) and UPerHead read BEiT's four maps as they are."""
    model = segmentor(
        dict(type='UPerHead', in_channels=[32] * 4, in_index=[0, 1, 2, 3], pool_scales=(1, 2), channels=16,
             num_classes=3, norm_cfg=BN),
        neck=dict(type='Feature2Pyramid', embed_dim=32, rescales=[4, 2, 1, 0.5], norm_cfg=BN),
    )  # fmt: skip
    images, samples = batch()
    assert [f.shape[-1] for f in model.extract_feat(images)] == [16, 8, 4, 2]
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(2):
        loss, _ = model.parse_losses(model.loss(images, samples))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None for p in model.parameters())
    assert losses[1] < losses[0]


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(upsample='nearest'), "'nearest'.*'bilinear' or 'deconv'"),
        (dict(num_stages=0), 'num_stages=0.*4 for patch 16'),
        (dict(in_channels=[8, 8]), 'one level'),
        (dict(in_index=[0, 1]), 'one level'),
        (dict(input_transform='resize_concat'), 'one level'),
    ],
)
def test_wrong_arguments_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        head(**wrong)

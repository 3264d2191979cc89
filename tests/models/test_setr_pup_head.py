"""The SETR-PUP decoder: its size, its arithmetic, and its place in mmseg's segmentor."""

import re

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from beit_mm.models import SETRPUPHead

ARCH = dict(embed_dims=32, num_layers=4, num_heads=4, feedforward_channels=64)
BN = dict(type='BN')
parametrize_upsample = pytest.mark.parametrize('upsample', ['bilinear', 'deconv'])


def make_head(**kwargs) -> SETRPUPHead:
    torch.manual_seed(0)
    return SETRPUPHead(**dict(in_channels=8, channels=16, num_classes=5, norm_cfg=BN) | kwargs)


def make_segmentor(decode_head: dict, auxiliary_head: list[dict]):
    torch.manual_seed(0)
    backbone = dict(
        type='beit_mm.BEiT', arch=ARCH, img_size=32, patch_size=8, layer_scale=0.1, rel_pos_bias='per_layer',
        out_type='featmap', out_indices=(0, 1, 2, 3),
    )  # fmt: skip
    heads = dict(decode_head=decode_head, auxiliary_head=auxiliary_head)
    model = MODELS.build(dict(type='EncoderDecoder', backbone=backbone, **heads))
    model.init_weights()
    return model


def make_batch() -> tuple[torch.Tensor, list[SegDataSample]]:
    """Return images with a dark, a gray and a bright part, which their labels distinguish."""
    borders = torch.arange(4)[:, None] * 2 + torch.tensor([8, 18])
    label = (torch.arange(32) >= borders[..., None]).sum(1)[:, None].expand(-1, 32, -1)
    images = (label[:, None] - 1.0).expand(-1, 3, -1, -1) + 0.1 * torch.randn(4, 3, 32, 32)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=one[None])) for one in label]
    return images, samples


def train(model) -> tuple[list[float], dict]:
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-2), []
    images, samples = make_batch()
    for _ in range(20):
        loss, logged = model.parse_losses(model.loss(images, samples))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None for p in model.parameters())
    return losses, logged


def test_bilinear_logits_are_mmsegs():
    ours = make_head(num_stages=2).eval()
    shape = dict(in_channels=8, channels=16, num_classes=5, num_convs=2, up_scale=2, kernel_size=3)
    theirs = MODELS.build(dict(type='SETRUPHead', norm_cfg=BN, **shape)).eval()
    state = ours.state_dict()
    names = {
        name: re.sub(r'up_convs\.(\d+)\.0', r'stages.\1', name) for name in theirs.state_dict()
    }
    theirs.load_state_dict({theirs_name: state[name] for theirs_name, name in names.items()})
    x = torch.randn(2, 8, 4, 6)
    torch.testing.assert_close(ours((x,)), theirs((x,)), rtol=1e-5, atol=1e-6)


@parametrize_upsample
def test_moving_the_features_moves_the_logits(upsample):
    """Away from the border, one patch is 2**num_stages pixels."""
    net, x = make_head(num_stages=2, upsample=upsample).eval(), torch.randn(1, 8, 12, 12)
    moved = net((F.pad(x, (1, 0, 1, 0))[..., :12, :12],))[..., 16:32, 16:32]
    torch.testing.assert_close(moved, net((x,))[..., 12:28, 12:28], rtol=1e-4, atol=1e-5)


@parametrize_upsample
def test_with_two_auxiliary_heads_every_parameter_learns_and_the_model_overfits(upsample):
    pup = dict(type='beit_mm.SETRPUPHead', in_channels=32, channels=16, num_classes=3, norm_cfg=BN)
    loss = dict(type='CrossEntropyLoss', loss_weight=0.4)
    auxiliary = [dict(pup, num_stages=1, in_index=i, loss_decode=loss) for i in (1, 2)]
    main = dict(pup, num_stages=3, in_index=3, upsample=upsample)
    losses, logged = train(make_segmentor(main, auxiliary))
    assert {'decode.loss_ce', 'aux_0.loss_ce', 'aux_1.loss_ce'} <= set(logged)
    chance = 1.98  # (1 + 2·0.4)·ln 3
    assert losses[0] > 0.8 * chance and losses[-1] < 0.25 * losses[0]

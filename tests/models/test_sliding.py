"""Windows that pass together give mmseg's own logits."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmseg.models import EncoderDecoder as MMSegEncoderDecoder
from small import CONFIGS, load, randomize

from beit_mm.models.sliding import EncoderDecoder

ARCH = dict(embed_dims=32, num_layers=2, num_heads=4, feedforward_channels=64)
BACKBONE = dict(
    type='beit_mm.BEiT', arch=ARCH, img_size=(32, 48), patch_size=8, rel_pos_bias='per_layer', out_type='featmap'
)  # fmt: skip
HEAD = dict(
    type='mmseg.FCNHead', in_channels=32, channels=8, num_classes=5, num_convs=1, norm_cfg=dict(type='BN'),
    loss_decode=dict(type='mmseg.CrossEntropyLoss'),
)  # fmt: skip


@pytest.mark.parametrize('windows', [1, 3, 8])
@pytest.mark.parametrize('size', [(32, 48), (40, 96), (75, 61)])
def test_logits_are_those_of_one_window_at_a_time(size, windows):
    test_cfg = dict(mode='slide', crop_size=(32, 48), stride=(21, 32), windows=windows)
    settings = dict(backbone=BACKBONE, decode_head=HEAD, test_cfg=ConfigDict(test_cfg))
    torch.manual_seed(0)
    theirs = randomize(MMSegEncoderDecoder(**settings), 0.1).eval()
    ours = EncoderDecoder(**settings).eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(2, 3, *size)
    meta = dict(ori_shape=size, img_shape=size, pad_shape=size, padding_size=[0, 0, 0, 0])
    with torch.no_grad():
        expected = theirs.inference(image, [dict(meta), dict(meta)])
        found = ours.inference(image, [dict(meta), dict(meta)])
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize('name', [n for n in CONFIGS if n.startswith('segmentation/')])
def test_the_segmentation_configs_use_it(name):
    model = load(name).model
    assert model.get('module', model).type == 'beit_mm.EncoderDecoder'

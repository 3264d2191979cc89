"""Windows that pass together give mmseg's own logits."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmseg.models import EncoderDecoder as Stock
from small import CONFIGS, load

from beit_mm.models.sliding import EncoderDecoder, starts

ARCH = dict(embed_dims=32, num_layers=2, num_heads=4, feedforward_channels=64)


def pair(
    crop: tuple[int, int], stride: tuple[int, int], **test_cfg
) -> tuple[Stock, EncoderDecoder]:
    parts = dict(
        backbone=dict(
            type='beit_mm.BEiT', arch=ARCH, img_size=crop, patch_size=8, rel_pos_bias='per_layer', out_type='featmap'
        ),
        decode_head=dict(
            type='mmseg.FCNHead', in_channels=32, channels=8, num_classes=5, num_convs=1, norm_cfg=dict(type='BN'),
            loss_decode=dict(type='mmseg.CrossEntropyLoss'),
        ),
        test_cfg=ConfigDict(mode='slide', crop_size=crop, stride=stride, **test_cfg),
    )  # fmt: skip
    torch.manual_seed(0)
    stock = Stock(**parts).eval()
    ours = EncoderDecoder(**parts).eval()
    for p in stock.parameters():
        torch.nn.init.normal_(p, std=0.1)
    ours.load_state_dict(stock.state_dict())
    return stock, ours


@pytest.mark.parametrize('windows', [1, 3, 8])
@pytest.mark.parametrize('size', [(32, 48), (40, 96), (75, 61)])
def test_logits_are_those_of_one_window_after_another(size, windows):
    stock, ours = pair((32, 48), (21, 32), windows=windows)
    image = torch.randn(2, 3, *size)
    meta = dict(ori_shape=size, img_shape=size, pad_shape=size, padding_size=[0, 0, 0, 0])
    with torch.no_grad():
        expected, found = (
            model.inference(image, [dict(meta), dict(meta)]) for model in (stock, ours)
        )
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    'size, crop, stride', [(683, 512, 341), (512, 512, 341), (2048, 512, 341), (40, 64, 30)]
)
def test_windows_cover_a_side_and_stay_inside(size, crop, stride):
    found = starts(size, crop, stride)
    covered = {x for start in found for x in range(start, min(start + crop, size))}
    assert covered == set(range(size)) and max(found) <= max(size - crop, 0)


@pytest.mark.parametrize('name', [n for n in CONFIGS if n.startswith('segmentation/')])
def test_the_segmentation_configs_slide_with_it(name):
    model = load(name).model
    assert model.get('module', model).type == 'beit_mm.EncoderDecoder'

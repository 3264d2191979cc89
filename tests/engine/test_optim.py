"""Options of layer decay change the learning rate and weight decay of the parameters they name."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from beit_mm.models import BEiT


def make_model(arch: str | dict = 'base', **backbone) -> nn.Module:
    """Return a model with a head as in mmpretrain, and a neck and a decoder as in mmseg."""
    kinds = dict(abs_pos_embed=True, rel_pos_bias='per_layer', layer_scale=0.1, mask_token=True)
    model = nn.Module()
    with torch.device('meta'):
        model.backbone = BEiT(arch, **kinds | dict(out_type='avg_featmap') | backbone)
        model.neck, model.decode_head = nn.Conv2d(768, 768, 1), nn.BatchNorm2d(768)
        model.head = model.same_head = nn.Linear(768, 1000)
    return model


@pytest.fixture(scope='module')
def base() -> nn.Module:
    return make_model()


def build_optimizer(model, lr=1.0, weight_decay=0.05, **paramwise) -> torch.optim.Optimizer:
    cfg = dict(
        optimizer=dict(type='AdamW', lr=lr, weight_decay=weight_decay),
        constructor='beit_mm.LayerDecayConstructor',
        paramwise_cfg=paramwise,
    )
    return build_optim_wrapper(model, cfg).optimizer


def settings(model, **cfg) -> dict[str, tuple[float, float]]:
    """Return parameter name → (lr, weight decay) as the optimizer uses them."""
    groups = build_optimizer(model, **cfg).param_groups
    by_id = {id(p): (g['lr'], g['weight_decay']) for g in groups for p in g['params']}
    assert sum(len(g['params']) for g in groups) == len(by_id)
    return {name: by_id[id(p)] for name, p in model.named_parameters() if id(p) in by_id}


NUMBERS = {
    'head.weight': (1, 0.05),
    'head.bias': (1, 0),
    'neck.weight': (1, 0.05),
    'decode_head.weight': (1, 0),
    'backbone.fc_norm.weight': (1, 0),
    'backbone.blocks.11.attn.qkv.weight': (0.5, 0.05),
    'backbone.blocks.0.attn.relative_position_bias_table': (0.5**12, 0.05),
    'backbone.patch_embed.proj.weight': (0.5**13, 0.05),
    'backbone.mask_token': (0.5**13, 0.05),
}


def test_some_rates_as_numbers(base):
    found = settings(base, layer_decay_rate=0.5)
    assert {name: found[name] for name in NUMBERS} == NUMBERS
    large = settings(make_model('large', rel_pos_bias='shared'), layer_decay_rate=0.5)
    assert large['backbone.rel_pos_bias.relative_position_bias_table'] == (1, 0.05)
    assert large['backbone.cls_token'] == (0.5**25, 0)
    assert large['backbone.blocks.23.gamma_1'] == (0.5, 0)


def test_each_option_changes_what_it_says(base):
    """`decay_cls_token` is as in the official segmentation code."""
    plain = settings(base, layer_decay_rate=0.65)
    found = settings(base, layer_decay_rate=0.65, head_lr_mult=4.0, decay_cls_token=True)
    for name, (lr, decay) in plain.items():
        lr *= 1 if name.startswith('backbone.') else 4
        decay = 0.05 if name == 'backbone.cls_token' else decay
        assert found[name] == pytest.approx((lr, decay)), name
    assert set(settings(base).values()) == {(1, 0), (1, 0.05)}  # without options


@pytest.mark.parametrize(
    ('paramwise', 'message'),
    [
        (dict(custom_keys={}), 'known are layer_decay_rate, head_lr_mult, decay_cls_token'),
        (dict(layer_decay_rate=1.5), r'layer_decay_rate=1\.5: expected a number in \(0, 1\]'),
        (dict(weight_decay=None), 'the optimizer needs lr and weight_decay'),
    ],
)
def test_wrong_settings_are_named(paramwise, message):
    with pytest.raises(ValueError, match=message):
        build_optimizer(nn.Linear(2, 2), **paramwise)

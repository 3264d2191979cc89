"""Layer decay where no config has it, and wrong settings; test_schedules.py and tests/fuzz compare all others."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from beit_mm.models import BEiT

EXPECTED = {  # parameter → learning rate, weight decay
    'head.weight': (1, 0.05),
    'head.bias': (1, 0),
    'backbone.rel_pos_bias.relative_position_bias_table': (1, 0.05),
    'backbone.blocks.23.gamma_1': (0.5, 0),
    'backbone.mask_token': (0.5**25, 0.05),
    'backbone.cls_token': (0.5**25, 0),
}


def build_groups(model: nn.Module, weight_decay=0.05, **paramwise) -> list[dict]:
    cfg = dict(
        optimizer=dict(type='AdamW', lr=1.0, weight_decay=weight_decay),
        constructor='beit_mm.LayerDecayConstructor',
        paramwise_cfg=paramwise,
    )
    return build_optim_wrapper(model, cfg).optimizer.param_groups


def test_shared_tables_learn_as_the_head_and_a_shared_head_is_in_one_group():
    model = nn.Module()
    with torch.device('meta'):
        model.backbone = BEiT('large', rel_pos_bias='shared', layer_scale=0.1, mask_token=True)
        model.head = model.same_head = nn.Linear(1024, 1000)
    groups = build_groups(model, layer_decay_rate=0.5)
    by_id = {id(p): (g['lr'], g['weight_decay']) for g in groups for p in g['params']}
    assert sum(len(g['params']) for g in groups) == len(by_id)
    found = {name: by_id[id(p)] for name, p in model.named_parameters()}
    assert {name: found[name] for name in EXPECTED} == EXPECTED


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
        build_groups(nn.Linear(2, 2), **paramwise)

"""Learning rate and weight decay of every parameter, against the official code's rules written out once more."""

import re

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmpretrain.models import ImageClassifier
from torch import nn

from beit_mm.engine import LayerDecayConstructor
from beit_mm.models.beit import BEiT


class Segmentor(nn.Module):
    """The names that mmseg's EncoderDecoder gives its parts."""

    def __init__(self, **backbone):
        super().__init__()
        self.backbone = BEiT(out_type='featmap', out_indices=(3, 5, 7, 11), **backbone)
        self.neck, self.decode_head = nn.Conv2d(768, 768, 1), nn.BatchNorm2d(768)


def wrapper(model, lr=1.0, wd=0.05, type='OptimWrapper', **paramwise):
    optimizer = dict(type='AdamW', lr=lr, weight_decay=wd)
    return build_optim_wrapper(
        model,
        dict(
            type=type,
            optimizer=optimizer,
            constructor='beit_mm.LayerDecayConstructor',
            paramwise_cfg=paramwise,
        ),
    )


def settings(model, **cfg):
    """{parameter name: (lr, weight decay)} as the optimizer will use them."""
    groups = wrapper(model, **cfg).optimizer.param_groups
    by_id = {id(p): (g['lr'], g['weight_decay']) for g in groups for p in g['params']}
    assert sum(len(g['params']) for g in groups) == len(by_id)
    return {name: by_id[id(p)] for name, p in model.named_parameters() if id(p) in by_id}


def official_layer(name, depth):
    name = name.removeprefix('backbone.')
    if name in ('cls_token', 'mask_token', 'pos_embed') or name.startswith('patch_embed'):
        return 0
    block = re.match(r'blocks\.(\d+)\.', name)
    return int(block[1]) + 1 if block else depth + 1


@pytest.fixture(scope='module')
def classifier():
    with torch.device('meta'):
        return ImageClassifier(
            backbone=dict(
                type='beit_mm.BEiT',
                abs_pos_embed=True,
                rel_pos_bias='per_layer',
                layer_scale=0.1,
                out_type='avg_featmap',
            ),
            head=dict(type='LinearClsHead', num_classes=1000, in_channels=768),
        )


@pytest.fixture(scope='module')
def segmentor():
    with torch.device('meta'):
        return Segmentor(rel_pos_bias='per_layer', layer_scale=0.1, mask_token=True)


# The recipes: lr, layer decay. A rate is checked at both ends and in the middle, besides the rule on every parameter.
@pytest.mark.parametrize('lr, rate', [(4e-3, 0.65), (2e-5, 0.85), (3e-3, 0.65)])
def test_every_parameter_of_a_classifier(classifier, lr, rate):
    got = settings(classifier, lr=lr, wd=0.05, layer_decay_rate=rate)
    params = dict(classifier.named_parameters())
    assert set(got) == set(params)
    for name, param in params.items():
        exempt = param.ndim == 1 or name in ('backbone.pos_embed', 'backbone.cls_token')
        assert got[name] == pytest.approx(
            (lr * rate ** (13 - official_layer(name, 12)), 0 if exempt else 0.05)
        ), name
    assert got['head.fc.weight'] == (lr, 0.05) and got['head.fc.bias'] == (lr, 0)
    assert got['backbone.fc_norm.weight'] == (lr, 0)
    assert got['backbone.blocks.11.attn.qkv.weight'] == pytest.approx((lr * rate, 0.05))
    assert got['backbone.blocks.0.attn.relative_position_bias_table'] == pytest.approx(
        (lr * rate**12, 0.05)
    )
    assert got['backbone.patch_embed.proj.weight'] == pytest.approx((lr * rate**13, 0.05))


@pytest.mark.parametrize('lr, rate', [(7e-4, 0.65), (3e-5, 0.9), (1e-3, 0.65)])
def test_every_parameter_of_a_segmentor(segmentor, lr, rate):
    got = settings(segmentor, lr=lr, layer_decay_rate=rate)
    for name, param in segmentor.named_parameters():
        exempt = param.ndim == 1 or name == 'backbone.cls_token'
        assert got[name] == pytest.approx(
            (lr * rate ** (13 - official_layer(name, 12)), 0 if exempt else 0.05)
        ), name
    assert got['neck.weight'] == (lr, 0.05) and got['decode_head.weight'] == (lr, 0)
    assert got['backbone.mask_token'] == pytest.approx((lr * rate**13, 0.05))


def test_a_shared_table_is_in_the_last_layer_and_decayed():
    with torch.device('meta'):
        got = settings(Segmentor(rel_pos_bias='shared'), layer_decay_rate=0.5)
    assert got['backbone.rel_pos_bias.relative_position_bias_table'] == (1.0, 0.05)


def test_large_has_26_layers():
    with torch.device('meta'):
        model = nn.Module()
        model.backbone = BEiT('large', layer_scale=1e-5)
    got = settings(model, lr=2e-5, layer_decay_rate=0.95)
    assert got['backbone.cls_token'] == pytest.approx((2e-5 * 0.95**25, 0))
    assert got['backbone.blocks.23.gamma_1'] == pytest.approx((2e-5 * 0.95, 0))


def test_cls_token_can_be_decayed_as_in_the_official_segmentation(segmentor):
    plain, slip = (
        settings(segmentor, layer_decay_rate=0.9, decay_cls_token=on) for on in (False, True)
    )
    assert {name for name in plain if plain[name] != slip[name]} == {'backbone.cls_token'}
    assert slip['backbone.cls_token'][1] == 0.05


def test_head_lr_mult_is_for_all_outside_the_backbone(segmentor):
    plain, fast = (
        settings(segmentor, layer_decay_rate=0.65),
        settings(segmentor, layer_decay_rate=0.65, head_lr_mult=4.0),
    )
    for name in plain:
        assert fast[name][0] == pytest.approx(
            plain[name][0] * (1 if name.startswith('backbone.') else 4)
        ), name


def test_without_paramwise_cfg_only_the_weight_decay_differs(segmentor):
    groups = wrapper(segmentor).optimizer.param_groups
    assert [(g['lr'], g['weight_decay']) for g in groups] == [(1.0, 0.0), (1.0, 0.05)]
    assert sum(p.numel() for g in groups for p in g['params']) == sum(
        p.numel() for p in segmentor.parameters()
    )


def tiny(**kwargs):
    arch = dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16)
    model = nn.Module()
    model.backbone = BEiT(arch, img_size=32, layer_scale=0.1, out_type='avg_featmap', **kwargs)
    model.head = nn.Linear(8, 3)
    return model


def test_frozen_parameters_are_left_out_and_shared_ones_come_once():
    model = tiny(frozen_stages=1)
    model.second_head = model.head
    got = settings(model, layer_decay_rate=0.5)
    assert not any(name.startswith(('backbone.blocks.0', 'backbone.patch_embed')) for name in got)
    assert sum(name.startswith('head') for name in got) == 2 and not any(
        name.startswith('second') for name in got
    )


def test_groups_are_shown_once_with_all_parameters(segmentor):
    logger = MMLogger.get_instance('layer_decay_test')
    lines = []
    logger.handle = lambda record: lines.append(record.getMessage())
    wrapper(segmentor, lr=3e-5, layer_decay_rate=0.9)
    lines = [line for line in lines if 'backbone' in line or 'lr scale' in line]
    assert len(lines) == 1 and '3.000e-05' in lines[0]
    shown = [int(line.split()[-1].replace(',', '')) for line in lines[0].splitlines()[2:]]
    assert sum(shown) == sum(p.numel() for p in segmentor.parameters())


no_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason='mmengine has AmpOptimWrapper on accelerators only'
)


@pytest.mark.parametrize('kind', ['OptimWrapper', pytest.param('AmpOptimWrapper', marks=no_gpu)])
def test_one_step_moves_each_layer_by_its_own_rate(kind):
    """Adam's first step is lr·sign(grad): the step's size shows the learning rate that was used."""
    torch.manual_seed(0)
    device = 'cpu' if kind == 'OptimWrapper' else 'cuda'
    model, rate = tiny(), 0.5
    model.backbone.init_weights()
    nn.init.normal_(model.head.weight)
    model.to(device)
    optim_wrapper = build_optim_wrapper(
        model,
        dict(
            type=kind,
            optimizer=dict(type='AdamW', lr=1e-2, weight_decay=0.0, eps=1e-20),
            constructor='beit_mm.LayerDecayConstructor',
            paramwise_cfg=dict(layer_decay_rate=rate),
            accumulative_counts=2,
            clip_grad=dict(max_norm=1.0),
        ),
    )
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for i in range(2):
        with optim_wrapper.optim_context(model):
            loss = (
                model.head(model.backbone(torch.randn(2, 3, 32, 32, device=device))[0])
                .float()
                .square()
                .sum()
            )
        optim_wrapper.update_params(loss)
        if i == 0:
            assert all(torch.equal(before[n], p) for n, p in model.named_parameters())
    for name, p in model.named_parameters():
        step = (p - before[name]).abs().max().item()
        assert step == pytest.approx(1e-2 * rate ** (3 - official_layer(name, 2)), rel=1e-3), name


@pytest.mark.parametrize(
    'paramwise, message',
    [
        (dict(layer_decay=0.65), "'layer_decay'.*layer_decay_rate"),
        (dict(decay_rate=0.65), 'layer_decay_rate'),
        (dict(decay_cls=True), 'decay_cls_token'),
        (dict(custom_keys={}), 'known are layer_decay_rate, head_lr_mult, decay_cls_token'),
        (dict(layer_decay_rate=1.5), r'\(0, 1\]'),
        (dict(layer_decay_rate=0), r'\(0, 1\]'),
    ],
)
def test_wrong_settings_are_named(paramwise, message):
    with pytest.raises(ValueError, match=message):
        LayerDecayConstructor(
            dict(optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.05)), paramwise
        )


def test_optimizer_has_to_state_its_weight_decay():
    with pytest.raises(ValueError, match='lr and weight_decay'):
        LayerDecayConstructor(dict(optimizer=dict(type='AdamW', lr=1.0)), {})


def test_a_model_without_layers_is_refused():
    model = nn.Sequential()
    model.backbone = nn.Linear(2, 2)
    with pytest.raises(
        TypeError, match='the backbone of Sequential, Linear, has no get_layer_depth'
    ):
        wrapper(model, layer_decay_rate=0.65)


def test_a_model_without_a_backbone_has_one_rate():
    assert (
        len({group['lr'] for group in wrapper(nn.Linear(2, 2), layer_decay_rate=0.65).param_groups})
        == 1
    )

"""Learning rate and weight decay of every parameter follow the rules of the official code."""

import re

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmpretrain.models import ImageClassifier
from torch import nn

from beit_mm.models.beit import BEiT


class Segmentor(nn.Module):
    """A model with the names of mmseg's EncoderDecoder."""

    def __init__(self, **backbone):
        super().__init__()
        self.backbone = BEiT(out_type='featmap', out_indices=(3, 5, 7, 11), **backbone)
        self.neck, self.decode_head = nn.Conv2d(768, 768, 1), nn.BatchNorm2d(768)


def build_wrapper(model, lr=1.0, weight_decay=0.05, **paramwise):
    cfg = dict(
        optimizer=dict(type='AdamW', lr=lr, weight_decay=weight_decay),
        constructor='beit_mm.LayerDecayConstructor',
        paramwise_cfg=paramwise,
    )
    return build_optim_wrapper(model, cfg)


def settings(model, **cfg) -> dict[str, tuple[float, float]]:
    """Return parameter name → (lr, weight decay) as the optimizer uses them."""
    groups = build_wrapper(model, **cfg).optimizer.param_groups
    by_id = {id(p): (g['lr'], g['weight_decay']) for g in groups for p in g['params']}
    assert sum(len(g['params']) for g in groups) == len(by_id)
    return {name: by_id[id(p)] for name, p in model.named_parameters() if id(p) in by_id}


def official_layer(name: str, depth: int = 12) -> int:
    name = name.removeprefix('backbone.')
    if name in ('cls_token', 'mask_token', 'pos_embed') or name.startswith('patch_embed'):
        return 0
    block = re.match(r'blocks\.(\d+)\.', name)
    return int(block[1]) + 1 if block else depth + 1


@pytest.fixture(scope='module')
def classifier():
    backbone = dict(
        type='beit_mm.BEiT',
        abs_pos_embed=True,
        rel_pos_bias='per_layer',
        layer_scale=0.1,
        out_type='avg_featmap',
    )
    with torch.device('meta'):
        return ImageClassifier(
            backbone=backbone,
            head=dict(type='LinearClsHead', num_classes=1000, in_channels=768),
        )


@pytest.fixture(scope='module')
def segmentor():
    with torch.device('meta'):
        return Segmentor(rel_pos_bias='per_layer', layer_scale=0.1, mask_token=True)


@pytest.mark.parametrize('lr, rate', [(4e-3, 0.65), (2e-5, 0.85), (7e-4, 0.65), (3e-5, 0.9)])
@pytest.mark.parametrize('kind', ['classifier', 'segmentor'])
def test_every_parameter_has_the_official_rate_and_decay(kind, lr, rate, request):
    model = request.getfixturevalue(kind)
    found = settings(model, lr=lr, layer_decay_rate=rate)
    assert set(found) == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        exempt = parameter.ndim == 1 or name in ('backbone.pos_embed', 'backbone.cls_token')
        expected = lr * rate ** (13 - official_layer(name)), 0 if exempt else 0.05
        assert found[name] == pytest.approx(expected), name


def test_some_rates_as_numbers(classifier, segmentor):
    found = settings(classifier, layer_decay_rate=0.5)
    assert found['head.fc.weight'] == (1, 0.05) and found['head.fc.bias'] == (1, 0)
    assert found['backbone.fc_norm.weight'] == (1, 0)
    assert found['backbone.blocks.11.attn.qkv.weight'] == (0.5, 0.05)
    assert found['backbone.blocks.0.attn.relative_position_bias_table'] == (0.5**12, 0.05)
    assert found['backbone.patch_embed.proj.weight'] == (0.5**13, 0.05)
    found = settings(segmentor, layer_decay_rate=0.5)
    assert found['neck.weight'] == (1, 0.05) and found['decode_head.weight'] == (1, 0)
    assert found['backbone.mask_token'] == (0.5**13, 0.05)


def test_a_shared_table_is_in_the_last_layer_and_decayed():
    with torch.device('meta'):
        found = settings(Segmentor(rel_pos_bias='shared'), layer_decay_rate=0.5)
    assert found['backbone.rel_pos_bias.relative_position_bias_table'] == (1.0, 0.05)


def test_large_has_26_layers():
    with torch.device('meta'):
        model = nn.Module()
        model.backbone = BEiT('large', layer_scale=1e-5)
    found = settings(model, lr=2e-5, layer_decay_rate=0.95)
    assert found['backbone.cls_token'] == pytest.approx((2e-5 * 0.95**25, 0))
    assert found['backbone.blocks.23.gamma_1'] == pytest.approx((2e-5 * 0.95, 0))


def test_cls_token_can_be_decayed_as_in_the_official_segmentation_code(segmentor):
    plain = settings(segmentor, layer_decay_rate=0.9)
    official = settings(segmentor, layer_decay_rate=0.9, decay_cls_token=True)
    assert {name for name in plain if plain[name] != official[name]} == {'backbone.cls_token'}
    assert official['backbone.cls_token'][1] == 0.05


def test_head_lr_mult_is_for_parameters_outside_the_backbone(segmentor):
    plain = settings(segmentor, layer_decay_rate=0.65)
    fast = settings(segmentor, layer_decay_rate=0.65, head_lr_mult=4.0)
    for name, (lr, _) in plain.items():
        assert fast[name][0] == pytest.approx(lr * (1 if name.startswith('backbone.') else 4)), name


def test_without_paramwise_cfg_only_the_weight_decay_differs(segmentor):
    groups = build_wrapper(segmentor).optimizer.param_groups
    assert [(g['lr'], g['weight_decay']) for g in groups] == [(1.0, 0.0), (1.0, 0.05)]


def make_tiny(**kwargs) -> nn.Module:
    arch = dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16)
    model = nn.Module()
    model.backbone = BEiT(arch, img_size=32, layer_scale=0.1, out_type='avg_featmap', **kwargs)
    model.head = nn.Linear(8, 3)
    return model


def test_frozen_parameters_are_skipped_and_shared_ones_come_once():
    model = make_tiny(frozen_stages=1)
    model.second_head = model.head
    found = settings(model, layer_decay_rate=0.5)
    assert not any(name.startswith(('backbone.blocks.0', 'backbone.patch_embed')) for name in found)
    assert [name for name in found if 'head' in name] == ['head.weight', 'head.bias']


def test_groups_are_logged_once_with_all_parameters(segmentor):
    logger = MMLogger.get_instance('layer_decay_test')
    lines = []
    logger.handle = lambda record: lines.append(record.getMessage())
    build_wrapper(segmentor, lr=3e-5, layer_decay_rate=0.9)
    (table,) = (line for line in lines if 'lr scale' in line)
    assert '3.000e-05' in table
    shown = [int(row.split()[-1].replace(',', '')) for row in table.splitlines()[2:]]
    assert sum(shown) == sum(parameter.numel() for parameter in segmentor.parameters())


no_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason='mmengine has AmpOptimWrapper on accelerators only'
)


@pytest.mark.parametrize('kind', ['OptimWrapper', pytest.param('AmpOptimWrapper', marks=no_gpu)])
def test_one_step_moves_each_layer_by_its_own_rate(kind):
    """The first step of Adam is lr·sign(gradient), so its size is the learning rate."""
    torch.manual_seed(0)
    device = 'cpu' if kind == 'OptimWrapper' else 'cuda'
    model, rate = make_tiny(), 0.5
    model.backbone.init_weights()
    nn.init.normal_(model.head.weight)
    model.to(device)
    cfg = dict(
        type=kind,
        optimizer=dict(type='AdamW', lr=1e-2, weight_decay=0.0, eps=1e-20),
        constructor='beit_mm.LayerDecayConstructor',
        paramwise_cfg=dict(layer_decay_rate=rate),
        accumulative_counts=2,
        clip_grad=dict(max_norm=1.0),
    )
    wrapper = build_optim_wrapper(model, cfg)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for iteration in range(2):
        with wrapper.optim_context(model):
            features = model.backbone(torch.randn(2, 3, 32, 32, device=device))[0]
            loss = model.head(features).float().square().sum()
        wrapper.update_params(loss)
        if iteration == 0:
            assert all(torch.equal(before[n], p) for n, p in model.named_parameters())
    for name, parameter in model.named_parameters():
        step = (parameter - before[name]).abs().max().item()
        assert step == pytest.approx(1e-2 * rate ** (3 - official_layer(name, 2)), rel=1e-3), name


@pytest.mark.parametrize(
    ('paramwise', 'message'),
    [
        (dict(custom_keys={}), 'known are layer_decay_rate, head_lr_mult, decay_cls_token'),
        (dict(layer_decay_rate=1.5), r'layer_decay_rate=1\.5: expected a number in \(0, 1\]'),
        (dict(layer_decay_rate=0), r'layer_decay_rate=0: expected a number in \(0, 1\]'),
        (dict(weight_decay=None), 'the optimizer needs lr and weight_decay'),
    ],
)
def test_wrong_settings_are_named(paramwise, message):
    with pytest.raises(ValueError, match=message):
        build_wrapper(nn.Linear(2, 2), **paramwise)


def test_a_model_without_a_backbone_has_one_rate():
    groups = build_wrapper(nn.Linear(2, 2), layer_decay_rate=0.65).param_groups
    assert len({group['lr'] for group in groups}) == 1

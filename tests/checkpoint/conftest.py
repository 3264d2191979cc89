"""Small models of every kind with random weights, biases, tables and statistics, none of them zero."""

from collections.abc import Callable

import pytest
import torch
from mmseg.models import FCNHead, Feature2Pyramid, UPerHead
from torch import Tensor, nn

from beit_mm.models import VQKD, BEiT, DiscreteVAE

ARCH = dict(embed_dims=64, num_layers=4, num_heads=1, feedforward_channels=128)
PLUS = dict(rel_pos_bias='per_layer', layer_scale=0.1)
KINDS = dict(
    mim=dict(rel_pos_bias='shared', layer_scale=0.1, mask_token=True),
    v2_mim=dict(
        rel_pos_bias='shared', layer_scale=0.1, mask_token=True, patch_aggregation=dict(layer=1)
    ),
    vanilla_mim=dict(abs_pos_embed=True, mask_token=True),
    classifier=dict(out_type='avg_featmap', **PLUS),
    vanilla_classifier=dict(out_type='avg_featmap', abs_pos_embed=True),
    cls_token_classifier=dict(out_type='cls_token', **PLUS),
    segmentor=dict(out_type='featmap', out_indices=(0, 1, 2, 3), **PLUS),
)


def make_vqkd(arch: dict, img_size: int) -> VQKD:
    """Return a VQ-KD with its decoder, and a teacher without weights."""
    backbone = dict(type='BEiT', arch=arch, img_size=img_size)
    normalization = dict(mean=[127.5] * 3, std=[127.5] * 3)
    teacher = dict(type='Teacher', backbone=backbone, channels=20, **normalization)
    return VQKD(24, 6, dict(arch=arch, img_size=img_size), decoder_layers=2, teacher=teacher)


@pytest.fixture(scope='session')
def randomize() -> Callable[..., nn.Module]:
    """Draws every parameter and every running statistic of a module."""

    def draw(module: nn.Module, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if 'running_var' in name:
                noise = noise.abs() + 0.5
            elif tensor.ndim > 1 and 'table' not in name and 'pos_embed' not in name:
                noise = noise / tensor[0].numel() ** 0.5
            tensor.data.copy_(0.1 + noise if tensor.ndim == 1 and 'running' not in name else noise)
        return module

    return draw


@pytest.fixture(scope='session')
def make_state(randomize) -> Callable[..., dict[str, Tensor]]:
    """`make_state(kind)` → a state dict in our names, also for 'tokenizer', 'vqkd', 'backbone'."""

    def make(kind: str, arch: dict = ARCH, img_size: int = 64, seed: int = 0) -> dict[str, Tensor]:
        if kind == 'tokenizer':
            tokenizer = randomize(DiscreteVAE(vocab_size=16, width=8, width_in=8), seed)
            return dict(tokenizer.state_dict())
        if kind == 'vqkd':
            return dict(randomize(make_vqkd(arch, img_size), seed).state_dict())
        settings = KINDS['mim' if kind == 'backbone' else kind]
        parts = dict(backbone=BEiT(arch=arch, img_size=img_size, **settings))
        dims, norm_cfg = arch['embed_dims'], dict(type='BN')
        if kind.endswith('mim'):
            parts['head'] = nn.ModuleDict(dict(proj=nn.Linear(dims, 20)))
        elif kind.endswith('classifier'):
            parts['head'] = nn.ModuleDict(dict(fc=nn.Linear(dims, 7)))
        elif kind == 'segmentor':
            shared = dict(num_classes=5, norm_cfg=norm_cfg, align_corners=False)
            parts['neck'] = Feature2Pyramid(dims, norm_cfg=norm_cfg)
            # Hugging Face's decoder is as wide as the backbone.
            parts['decode_head'] = UPerHead(
                in_channels=[dims] * 4, in_index=[0, 1, 2, 3], channels=dims, **shared
            )
            parts['auxiliary_head'] = FCNHead(
                in_channels=dims, in_index=2, channels=16, num_convs=1, concat_input=False, **shared
            )
        return dict(randomize(nn.ModuleDict(parts), seed).state_dict())

    return make

"""Weights into a model: positions made to fit its grid, every key loaded, left out for a stated reason, or an error."""

import math
import re
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn

from ..models.beit import BEiT
from ..models.embeddings import resize_pos_embed
from ..models.relative_position import Grid, resize_bias_table
from ..registry import WEIGHT_INITIALIZERS
from ..utils.arguments import join_names
from .facts import TABLE, square_side
from .weights import load_with_meta

SHARED, PATCH_EMBED = f'rel_pos_bias.{TABLE}', 'patch_embed.proj.weight'
PARTS = (
    'cls_token',
    'mask_token',
    'pos_embed',
    'patch_embed',
    'rel_pos_bias',
    'blocks',
    'norm',
    'fc_norm',
)  # of a BEiT
_WHERE_NOT_READ = dict(
    mask_token='hides patches in pre-training only',
    norm='mean pooling and feature maps are taken before it',
    fc_norm='belongs to the pooled feature',
)


@dataclass
class Report:
    """What became of each key of a checkpoint: (fate, key, note), printed as one table."""

    source: str
    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, fate: str, key: str, note: str = '') -> None:
        self.rows.append((fate, key, note))

    def __str__(self) -> str:
        """A row for each fate and kind of key; those that differ in the number of the block alone are one kind."""
        kinds: dict[tuple[str, str, str], list[str]] = {}
        for fate, key, note in self.rows:
            numbered = re.sub(r'(blocks|layers?)\.\d+\.', r'\1.*.', key)
            key = '' if fate == 'loaded' else numbered
            kinds.setdefault((fate, key, note), []).append(key)
        lines = [f'{self.source}:', f'  {"keys":>5}  {"fate":<9}  which']
        for (fate, key, note), members in kinds.items():
            which = ' '.join(filter(None, [key, f'({note})' if note else '']))
            lines.append(f'  {len(members):>5}  {fate:<9}  {which}'.rstrip())
        return '\n'.join(lines)

    def log(self) -> None:
        print_log(str(self), logger='current')


@WEIGHT_INITIALIZERS.register_module()
def load_backbone(
    model: BEiT, path: str, grid: Grid | None = None, adapt_patch_embed: bool = False
) -> None:
    """Load the backbone of any BEiT, whoever wrote it, into `model`.

    A shared position table is copied into every layer, positions are resized to the model's grid. What happened to each key
    is logged as a table.

    Args:
        grid: (h, w) that the positions were learned for, if it is not square.
        adapt_patch_embed: also take a patch embedding of other channels or of another patch size (`adapted_patch_embed`).

    Raises ValueError that names the keys that are missing, unexpected or of another shape.
    """
    state, origin, left, meta = load_with_meta(path)
    if (heads := meta.get('num_heads', model.num_heads)) != model.num_heads:
        raise ValueError(
            f'{path} was trained with {heads} heads, this BEiT has {model.num_heads}: set arch.num_heads={heads}'
        )
    report = Report(f'{path}, written by {origin}')
    for key, why in left.items():
        report.add('left out', key, why)
    for name in sorted({k.split('.')[0] for k in state if not k.startswith('backbone.')}):
        report.add('left out', f'{name}.*', 'no part of the backbone')
    backbone = {
        k.removeprefix('backbone.'): v for k, v in state.items() if k.startswith('backbone.')
    }
    fitted = fit_backbone(backbone, model, report, grid, adapt_patch_embed)
    check(model, fitted, path, 'BEiT', may_be_new=('fc_norm.', 'norm.'))
    for key in model.state_dict():
        report.add(*(('loaded', key) if key in fitted else ('new', key, 'this task adds it')))
    model.load_state_dict(fitted, strict=False)
    model.pretrained_normalization = meta.get('normalization')
    report.log()


def fit_backbone(
    state: dict[str, Tensor],
    model: BEiT,
    report: Report,
    grid: Grid | None = None,
    adapt_patch_embed: bool = False,
) -> dict[str, Tensor]:
    """A state dict of a backbone (without prefix) made to fit `model`, whatever its bias and grid; `report` says how."""
    state, own = dict(state), model.state_dict()
    weight = state.get(PATCH_EMBED)
    if adapt_patch_embed and weight is not None and weight.shape != own[PATCH_EMBED].shape:
        (_, channels, *patch), (_, own_channels, *own_patch) = weight.shape, own[PATCH_EMBED].shape
        state[PATCH_EMBED] = adapted_patch_embed(weight, own_channels, own_patch[0])
        note = f'{channels} → {own_channels} channels, patch {patch[0]} → {own_patch[0]} pixels'
        report.add('adapted', PATCH_EMBED, note)
    if SHARED in state and model.rel_pos_bias is None and model.blocks[0].attn.bias_grid:
        table, depth = state.pop(SHARED), len(model.blocks)
        state |= {f'blocks.{i}.attn.{TABLE}': table.clone() for i in range(depth)}
        report.add('expanded', SHARED, f'copied into {depth} layers')
    for key, value in state.items():
        if (
            key not in own
            or value.ndim != own[key].ndim
            or (value.shape == own[key].shape and grid in (None, model.grid))
        ):
            continue  # the latter are of the same grid, square or not
        source = grid or ((side, side) if (side := square_side(value)) else None)
        if source and key.endswith(TABLE):
            state[key] = resize_bias_table(value, source, model.grid)
        elif source and key == 'pos_embed':
            state[key] = resize_pos_embed(value, source, model.grid)
        else:
            continue
        report.add(
            'resized', key, f'{source[0]}×{source[1]} → {model.grid[0]}×{model.grid[1]} patches'
        )
    for key in list(state):
        name = key.split('.')[0]
        if name in _WHERE_NOT_READ and getattr(model, name) is None:
            report.add('left out', key, _WHERE_NOT_READ[name])
            del state[key]
    return state


def adapted_patch_embed(weight: Tensor, channels: int, patch_size: int) -> Tensor:
    """Return a patch embedding [D, C, p, p] for other channels and another patch size, as timm computes both.

    One channel: the sum over the channels, so a grey image gets what it got as RGB. Otherwise the channels are repeated and
    scaled by C / channels. Patch size: the pseudo-inverse of bicubic resizing, so that a resized patch gets about the same
    embedding (FlexiViT, https://arxiv.org/abs/2212.08013).
    """
    dtype, (_, given, *size) = weight.dtype, weight.shape
    weight = weight.float()
    if size != [patch_size] * 2:
        pixels = torch.eye(size[0] * size[1]).unflatten(1, (1, *size))
        resize = F.interpolate(
            pixels, (patch_size, patch_size), mode='bicubic', antialias=True, align_corners=False
        )
        weight = weight.flatten(2) @ torch.linalg.pinv(resize.flatten(1).T)
        weight = weight.unflatten(2, (patch_size, patch_size))
    if channels == 1:
        weight = weight.sum(1, keepdim=True)
    elif channels != given:
        weight = weight.repeat(1, math.ceil(channels / given), 1, 1)[:, :channels] * (
            given / channels
        )
    return weight.to(dtype)


@WEIGHT_INITIALIZERS.register_module()
def load_tokenizer(model: nn.Module, path: str) -> None:
    """Load a `DiscreteVAE`: ours, DALL-E's pickles (the folder with both), or an encoder alone (one pickle, mmpretrain's).

    With an encoder alone `model.decoder` becomes None: there are ids, but no pictures. ValueError names every key that
    does not match.
    """
    state, origin, left, _ = load_with_meta(path)
    report = Report(f'{path}, written by {origin}')
    for key, why in left.items():
        report.add('left out', key, why)
    whole = any(key.startswith('decoder.') for key in state)
    check(model, state, path, 'tokenizer', () if whole else ('decoder.',))
    model.load_state_dict(state, strict=False)
    if not whole:
        model.decoder = None
        report.add(
            'left out', 'decoder.*', 'an encoder alone was given: there are ids, but no pictures'
        )
    for key in state:
        report.add('loaded', key)
    report.log()


def check(
    model: nn.Module,
    state: dict[str, Tensor],
    path: str,
    what: str,
    may_be_new: tuple[str, ...] = (),
) -> None:
    """ValueError that names the keys of `state` and `model` that differ, or that hold no numbers; those of data preprocessing
    do not count."""
    own = {k: v for k, v in model.state_dict().items() if not k.startswith('data_preprocessor.')}
    missing = sorted(k for k in own if k not in state and not k.startswith(may_be_new))
    unexpected = sorted(k for k in state if k not in own)
    wrong = [
        f'{k}: {tuple(v.shape)} ≠ {tuple(own[k].shape)}'
        for k, v in state.items()
        if k in own and v.shape != own[k].shape
    ]
    if lost := [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]:
        raise ValueError(
            f'{path} holds NaN or infinity in {join_names(lost)}: take an earlier checkpoint of that run'
        )
    if missing or unexpected or wrong:
        settings = (
            'vocab_size, width, groups, blocks'
            if what == 'tokenizer'
            else 'arch, positions, layer_scale, head'
        )
        advice = ''
        if any(entry.startswith((PATCH_EMBED, f'backbone.{PATCH_EMBED}')) for entry in wrong):
            advice += (
                ". To adapt the patch embedding to other channels or another patch size, load it by the backbone's init_cfg="
                f"dict(type='Pretrained', checkpoint={path!r}, adapt_patch_embed=True)"
            )
        alien = sorted(
            {
                part
                for key in unexpected
                if (part := key.removeprefix('backbone.').split('.')[0]) not in PARTS
            }
        )
        if what == 'BEiT' and alien:
            advice += (
                f'. BEiT has no {join_names(alien)}, which an adapter adds: `python tools/convert.py {path} backbone.pth --to beit_mm '
                '--backbone` writes the backbone alone'
            )
        positions = any(TABLE in entry or 'pos_embed' in entry for entry in wrong)
        raise ValueError(
            f'{path} does not fit this {what}. Missing: {join_names(missing)}; unexpected: {join_names(unexpected)}; of another shape: '
            f'{join_names(wrong)}. Give the model the settings that it was trained with: {settings}'
            + (
                ', and for positions of a grid that is not square init_cfg.grid=(h, w)'
                if positions
                else ''
            )
            + advice
        )


def check_lora(state: dict[str, Tensor], source: str) -> None:
    """Raise ValueError if weights for a model in mmpretrain's LoRAModel are not those of a LoRAModel.

    Its layers have other names than the layers that they replace, so nothing would be loaded.
    """
    if not any('.lora_' in key for key in state):
        raise ValueError(
            f'load_from={source} holds no LoRA weights, and the model is in a LoRAModel: none of its layers would be loaded. '
            "Remove load_from, and set init_cfg=dict(type='Pretrained', checkpoint=…) of LoRAModel's module"
        )

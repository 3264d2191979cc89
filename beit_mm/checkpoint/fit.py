"""Fit the weights of a backbone to a model: positions, patch embedding, parts that are not used."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.beit import BEiT
from ..models.dvae import DiscreteVAE
from ..models.embeddings import resize_pos_embed
from ..models.relative_position import Grid, resize_bias_table
from ..utils.arguments import join_names
from ..utils.installation import command
from .model_spec import BIAS_TABLE, infer_square_side
from .report import KeyReport

_SHARED = f'rel_pos_bias.{BIAS_TABLE}'
_PATCH_EMBED = 'patch_embed.proj.weight'
_OPTIONAL = dict(  # parts that a BEiT may lack → why they are skipped then
    mask_token='used in pre-training only',
    cls_pt_layers="BEiT v2's patch aggregation, used in pre-training only",
    norm='mean pooling and feature maps precede it',
    fc_norm='belongs to the pooled feature',
)
BACKBONE_PARTS = ('cls_token', 'pos_embed', 'patch_embed', 'rel_pos_bias', 'blocks', *_OPTIONAL)


def fit_backbone(
    state: dict[str, Tensor],
    model: BEiT,
    report: KeyReport,
    grid: Grid | None = None,
    adapt: bool = False,
) -> dict[str, Tensor]:
    """Return the state dict of a backbone (keys without prefix) with the shapes of `model`.

    A shared position table is copied into every layer, positions are resized to the model's grid,
    and parts that the model does not use are skipped. `report` gets a row for each change.

    Args:
        grid: (h, w) that the positions were learned for, if it is not square.
        adapt: adapt the patch embedding to the model's channels and patch size.
    """
    state = dict(state)
    if adapt:
        _adapt(state, model, report)
    if _SHARED in state and model.rel_pos_bias is None and model.blocks[0].attn.bias_grid:
        table, depth = state.pop(_SHARED), len(model.blocks)
        state |= {f'blocks.{i}.attn.{BIAS_TABLE}': table.clone() for i in range(depth)}
        report.add('expanded', _SHARED, f'copied into {depth} layers')
    _resize_positions(state, model, report, grid)
    for key in list(state):
        name = key.split('.')[0]
        if name in _OPTIONAL and getattr(model, name) is None:
            report.add('skipped', key, _OPTIONAL[name])
            del state[key]
    return state


def adapt_patch_embed(weight: Tensor, channels: int, patch_size: int) -> Tensor:
    """Adapt a patch embedding [D, C, p, p] to other channels and another patch size, as timm does.

    - One channel: the sum over the channels. A gray image has the same embedding as in RGB.
    - Other numbers of channels: the weights are repeated and scaled by C / channels.
    - Another patch size: the weights are multiplied by the pseudo-inverse of bicubic resizing. A
      resized patch has about the same embedding (FlexiViT, https://arxiv.org/abs/2212.08013).
    """
    dtype, (_, given, *size) = weight.dtype, weight.shape
    weight = weight.float()
    if size != [patch_size, patch_size]:
        pixels = torch.eye(size[0] * size[1]).unflatten(1, (1, *size))
        resize = F.interpolate(
            pixels, (patch_size, patch_size), mode='bicubic', antialias=True, align_corners=False
        )
        weight = weight.flatten(2) @ torch.linalg.pinv(resize.flatten(1).T)
        weight = weight.unflatten(2, (patch_size, patch_size))
    if channels == 1:
        weight = weight.sum(1, keepdim=True)
    elif channels != given:
        repeated = weight.repeat(1, math.ceil(channels / given), 1, 1)
        weight = repeated[:, :channels] * (given / channels)
    return weight.to(dtype)


def check_fit(
    model: nn.Module, state: dict[str, Tensor], source: str, optional: tuple[str, ...] = ()
) -> None:
    """Raise ValueError unless `state` has the keys and shapes of `model` and finite values.

    Keys of data preprocessing are ignored. Keys that start with one of `optional` may be missing.
    """
    own, state = (
        {key: value for key, value in each.items() if not key.startswith('data_preprocessor.')}
        for each in (model.state_dict(), state)
    )
    infinite = [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
    if infinite:
        raise ValueError(
            f'{source} holds NaN or infinity in {join_names(infinite)}. Use an earlier checkpoint'
        )
    missing = sorted(key for key in own if key not in state and not key.startswith(optional))
    unexpected = sorted(key for key in state if key not in own)
    mismatched = [
        f'{key}: {tuple(value.shape)} ≠ {tuple(own[key].shape)}'
        for key, value in state.items()
        if key in own and value.shape != own[key].shape
    ]
    if missing or unexpected or mismatched:
        raise ValueError(
            f'{source} does not fit this {type(model).__name__}. Missing: {join_names(missing)}; '
            f'unexpected: {join_names(unexpected)}; of another shape: {join_names(mismatched)}. '
            'Give the model the settings of its training'
            + _advise(model, source, unexpected, mismatched)
        )


def _adapt(state: dict[str, Tensor], model: BEiT, report: KeyReport) -> None:
    weight, own = state.get(_PATCH_EMBED), model.patch_embed.proj.weight
    if weight is None or weight.shape == own.shape:
        return
    (_, channels, *patch), (_, own_channels, *own_patch) = weight.shape, own.shape
    state[_PATCH_EMBED] = adapt_patch_embed(weight, own_channels, own_patch[0])
    note = f'{channels} → {own_channels} channels, patch {patch[0]} → {own_patch[0]} pixels'
    report.add('adapted', _PATCH_EMBED, note)


def _resize_positions(
    state: dict[str, Tensor], model: BEiT, report: KeyReport, grid: Grid | None
) -> None:
    own = model.state_dict()
    for key, value in state.items():
        is_table = key.endswith(BIAS_TABLE)
        if key not in own or value.ndim != own[key].ndim or not (is_table or key == 'pos_embed'):
            continue
        if value.shape == own[key].shape and grid in (None, model.grid):
            continue
        side = infer_square_side(value)
        source = grid or (side and (side, side))
        if not source:
            continue  # an error of `check_fit`
        resize = resize_bias_table if is_table else resize_pos_embed
        state[key] = resize(value, source, model.grid)
        sizes = [f'{height}×{width}' for height, width in (source, model.grid)]
        report.add('resized', key, f'{sizes[0]} → {sizes[1]} patches')


def _advise(model: nn.Module, source: str, unexpected: list[str], mismatched: list[str]) -> str:
    """Return which settings to change, after the words 'the settings of its training'."""
    if isinstance(model, DiscreteVAE):
        return ': vocab_size, width, groups, blocks'
    if not hasattr(model, 'backbone') and not isinstance(model, BEiT):
        return ''
    advice = ': arch, positions, layer_scale, head'
    if any(BIAS_TABLE in entry or 'pos_embed' in entry for entry in mismatched):
        advice += ', and init_cfg.grid=(h, w) for positions of a grid that is not square'
    if any(_PATCH_EMBED in entry for entry in mismatched):
        advice += (
            '. To adapt the patch embedding to other channels or another patch size, load it by '
            "the backbone's init_cfg=dict(type='Pretrained', "
            f'checkpoint={source!r}, adapt_patch_embed=True)'
        )
    parts = {key.removeprefix('backbone.').split('.')[0] for key in unexpected}
    if isinstance(model, BEiT) and (added := sorted(parts - set(BACKBONE_PARTS))):
        advice += (
            f'. An adapter adds {join_names(added)}. To extract the backbone alone, run '
            f'`{command("convert")} {source} backbone.pth --to beit_mm --backbone`'
        )
    return advice

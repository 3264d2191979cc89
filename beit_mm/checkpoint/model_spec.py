"""The model that a state dict belongs to: architecture, positions, head."""

import math
import re
from dataclasses import dataclass, replace

from torch import Tensor

from ..models.relative_position import Grid
from .key_names import BIAS_TABLE

SHARED_TABLE = f'backbone.rel_pos_bias.{BIAS_TABLE}'

_OUT_INDICES = {12: (3, 5, 7, 11), 24: (7, 11, 15, 23)}  # of UPerNet and SETR-PUP, by depth
_HEAD_WEIGHTS = dict(  # kind of model → weight with one row per class or code
    tokenizer='encoder.output.conv.weight',
    vqkd='codebook.codes',
    mim='head.proj.weight',
    classifier='head.fc.weight',
    segmentor='decode_head.conv_seg.weight',
)


@dataclass(frozen=True)
class ModelSpec:
    """Specification of a model.

    Args:
        kind: 'backbone', 'mim', 'classifier', 'segmentor', 'tokenizer' (discrete VAE) or 'vqkd'.
            All but 'tokenizer' describe a BEiT; that of 'vqkd' is its encoder.
        aggregation_blocks: number of blocks of BEiT v2's patch aggregation.
        classes: number of classes or codes of the head.
    """

    kind: str
    arch: dict[str, int] | None = None
    patch_size: int = 16
    in_channels: int = 3
    grid: Grid = (14, 14)
    abs_pos_embed: bool = False
    rel_pos_bias: str | None = None
    layer_scale: bool = False
    mask_token: bool = False
    aggregation_blocks: int = 0
    out_type: str = 'raw'
    classes: int | None = None

    @property
    def img_size(self) -> tuple[int, int]:
        return self.grid[0] * self.patch_size, self.grid[1] * self.patch_size

    @property
    def out_indices(self) -> tuple[int, ...]:
        """Blocks that a segmentor reads: the official code's, or one per quarter of the depth."""
        depth = self.arch['num_layers']
        return _OUT_INDICES.get(depth, tuple(depth * i // 4 - 1 for i in (1, 2, 3, 4)))

    def backbone_settings(self) -> dict:
        """Return the arguments of `beit_mm.BEiT`."""
        settings = dict(
            arch=self.arch,
            img_size=self.img_size,
            patch_size=self.patch_size,
            in_channels=self.in_channels,
            abs_pos_embed=self.abs_pos_embed,
            rel_pos_bias=self.rel_pos_bias,
            layer_scale=0.1 if self.layer_scale else None,
            mask_token=self.mask_token,
            out_type=self.out_type,
        )
        if self.aggregation_blocks:
            # 9 of 12 and 21 of 24 in the paper; no weight depends on it.
            layer = max(self.arch['num_layers'] - 3, 1)
            settings['patch_aggregation'] = dict(layer=layer, num_blocks=self.aggregation_blocks)
        if self.kind == 'segmentor':
            settings['out_indices'] = self.out_indices
        return settings


def infer_spec(state: dict[str, Tensor], num_heads: int | None = None) -> ModelSpec:
    """Infer the model from a state dict in our names.

    Args:
        num_heads: of the attention. It is only needed without relative positions; the default is
            one head per 64 channels, as in all published weights.

    Raises ValueError if a part of the backbone is missing or its grid is not square.
    """
    kind = next((kind for kind, head in _HEAD_WEIGHTS.items() if head in state), 'backbone')
    classes = None if kind == 'backbone' else len(state[_HEAD_WEIGHTS[kind]])
    if kind == 'tokenizer':
        in_channels = _get(state, 'encoder.input.weight').shape[1]
        return ModelSpec(kind, in_channels=in_channels, classes=classes)
    if kind == 'vqkd':
        parts = [(key, value) for key, value in state.items() if key.startswith('encoder.')]
        encoder = {key.replace('encoder.', 'backbone.', 1): value for key, value in parts}
        return replace(infer_spec(encoder, num_heads), kind=kind, classes=classes)
    dims, in_channels, patch_size, _ = _get(state, 'backbone.patch_embed.proj.weight').shape
    hidden = len(_get(state, 'backbone.blocks.0.mlp.fc1.weight'))
    table = state.get(SHARED_TABLE, state.get(f'backbone.blocks.0.attn.{BIAS_TABLE}'))
    absolute = state.get('backbone.pos_embed')
    positions = absolute if table is None else table
    if table is not None:
        num_heads = table.shape[1]
    num_heads = num_heads or max(dims // 64, 1)
    arch = dict(
        embed_dims=dims,
        num_layers=count_layers(state),
        num_heads=num_heads,
        feedforward_channels=hidden,
    )
    relative = 'shared' if SHARED_TABLE in state else 'per_layer'
    return ModelSpec(
        kind=kind,
        arch=arch,
        patch_size=patch_size,
        in_channels=in_channels,
        grid=(14, 14) if positions is None else infer_square_grid(positions),
        abs_pos_embed=absolute is not None,
        rel_pos_bias=None if table is None else relative,
        layer_scale='backbone.blocks.0.gamma_1' in state,
        mask_token='backbone.mask_token' in state,
        aggregation_blocks=count_layers(state, 'cls_pt_layers'),
        out_type=_infer_out_type(state, kind),
        classes=classes,
    )


def count_layers(state: dict[str, Tensor], part: str = 'blocks') -> int:
    matches = [re.match(rf'backbone\.{part}\.(\d+)\.', key) for key in state]
    return 1 + max((int(match[1]) for match in matches if match), default=-1)


def infer_square_grid(positions: Tensor) -> Grid:
    """Return the grid of a bias table [rows, heads] or of absolute positions [1, 1 + N, D].

    Raises ValueError if the grid is not square.
    """
    side = infer_square_side(positions)
    if side is None:
        raise ValueError(
            f'positions of shape {tuple(positions.shape)} have no square grid. Pass grid=(h, w)'
        )
    return side, side


def infer_square_side(positions: Tensor) -> int | None:
    """Return the side of a square grid, or None if the grid is not square."""
    absolute = positions.ndim == 3
    count = positions.shape[1] - 1 if absolute else len(positions) - 3
    side = math.isqrt(max(count, 0))
    if side * side != count:
        return None
    if absolute:
        return side
    return (side + 1) // 2 if side % 2 else None


def _infer_out_type(state: dict[str, Tensor], kind: str) -> str:
    if 'backbone.fc_norm.weight' in state:
        return 'avg_featmap'
    if 'backbone.norm.weight' not in state:
        return 'featmap'
    return 'cls_token' if kind == 'classifier' else 'raw'


def _get(state: dict[str, Tensor], key: str) -> Tensor:
    if key not in state:
        raise ValueError(
            f'{key} is missing: expected a complete backbone, or a tokenizer with its encoder'
        )
    return state[key]

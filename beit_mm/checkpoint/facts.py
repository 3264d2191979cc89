"""What a state dict in our names tells of its model: architecture, positions, head."""

import math
import re
from dataclasses import dataclass

from torch import Tensor

from ..models.relative_position import Grid

TABLE, SHARED = 'relative_position_bias_table', 'backbone.rel_pos_bias.relative_position_bias_table'
TAPS = {12: (3, 5, 7, 11), 24: (7, 11, 15, 23)}  # of UPerNet and SETR-PUP, by depth


@dataclass(frozen=True)
class Facts:
    """`kind`: 'backbone', 'mim', 'classifier', 'segmentor' or 'tokenizer'. `channels`: classes or codes that the head has."""

    kind: str
    arch: dict[str, int] | None = None
    patch_size: int = 16
    in_channels: int = 3
    grid: Grid = (14, 14)
    abs_pos_embed: bool = False
    rel_pos_bias: str | None = None
    layer_scale: bool = False
    mask_token: bool = False
    out_type: str = 'raw'
    channels: int | None = None

    @property
    def img_size(self) -> tuple[int, int]:
        return self.grid[0] * self.patch_size, self.grid[1] * self.patch_size

    @property
    def taps(self) -> tuple[int, ...]:
        """Blocks whose features a segmentor reads: the official ones, for another depth every quarter."""
        depth = self.arch['num_layers']
        return TAPS.get(depth, tuple(depth * i // 4 - 1 for i in (1, 2, 3, 4)))

    def backbone(self) -> dict:
        """The arguments of `beit_mm.BEiT`."""
        segmentor = dict(out_indices=self.taps) if self.kind == 'segmentor' else {}
        return dict(
            arch=self.arch,
            img_size=self.img_size,
            patch_size=self.patch_size,
            in_channels=self.in_channels,
            abs_pos_embed=self.abs_pos_embed,
            rel_pos_bias=self.rel_pos_bias,
            layer_scale=0.1 if self.layer_scale else None,
            mask_token=self.mask_token,
            out_type=self.out_type,
            **segmentor,
        )


def describe(state: dict[str, Tensor], heads: int | None = None) -> Facts:
    """Return the facts of a state dict in our names.

    `heads`: of the attention, if what wrote the weights says so. Relative positions tell it; with absolute ones alone it is 64
    channels per head, as in all published weights. Raises ValueError if a part of a backbone is missing, or its grid is not
    square.
    """
    kinds = dict(
        tokenizer='encoder.input.weight',
        mim='head.proj.weight',
        classifier='head.fc.weight',
        segmentor='decode_head.',
    )
    kind = next(
        (kind for kind, key in kinds.items() if any(k.startswith(key) for k in state)), 'backbone'
    )
    if kind == 'tokenizer':
        codes, in_channels = (
            len(state['encoder.output.conv.weight']),
            state['encoder.input.weight'].shape[1],
        )
        return Facts(kind, channels=codes, in_channels=in_channels)
    parts = ('backbone.patch_embed.proj.weight', 'backbone.blocks.0.mlp.fc1.weight')
    if missing := [key for key in parts if key not in state]:
        raise ValueError(
            f'this is neither a whole backbone nor a tokenizer with its encoder: {missing[0]} is missing'
        )
    depth = 1 + max(int(k.split('.')[2]) for k in state if re.match(r'backbone\.blocks\.\d+\.', k))
    (dims, in_channels, patch_size, _), hidden = state[parts[0]].shape, len(state[parts[1]])
    own, absolute = f'backbone.blocks.0.attn.{TABLE}', state.get('backbone.pos_embed')
    table = state.get(SHARED, state.get(own))
    heads = table.shape[1] if table is not None else heads or max(dims // 64, 1)
    positions = table if table is not None else absolute
    head = dict(
        mim='head.proj.weight', classifier='head.fc.weight', segmentor='decode_head.conv_seg.weight'
    ).get(kind)
    norm, pooled = 'backbone.norm.weight' in state, 'backbone.fc_norm.weight' in state
    return Facts(
        kind=kind,
        arch=dict(embed_dims=dims, num_layers=depth, num_heads=heads, feedforward_channels=hidden),
        patch_size=patch_size,
        in_channels=in_channels,
        grid=(14, 14) if positions is None else square_grid(positions),
        abs_pos_embed=absolute is not None,
        rel_pos_bias='shared' if SHARED in state else 'per_layer' if own in state else None,
        layer_scale='backbone.blocks.0.gamma_1' in state,
        mask_token='backbone.mask_token' in state,
        out_type='avg_featmap'
        if pooled
        else 'featmap'
        if not norm
        else 'cls_token'
        if kind == 'classifier'
        else 'raw',
        channels=len(state[head]) if head else None,
    )


def square_grid(positions: Tensor) -> Grid:
    """The grid of a bias table [rows, heads] or of absolute positions [1, 1 + N, D]. ValueError when it is not square."""
    side = square_side(positions)
    if side is None:
        raise ValueError(
            f'positions of shape {tuple(positions.shape)} are of no square grid: say which, grid=(h, w)'
        )
    return side, side


def square_side(positions: Tensor) -> int | None:
    count = positions.shape[1] - 1 if positions.ndim == 3 else len(positions) - 3
    side = math.isqrt(max(count, 0))
    if side * side != count:
        return None
    if positions.ndim == 3:
        return side
    return (side + 1) // 2 if side % 2 else None

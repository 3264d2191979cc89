"""Relative position bias of BEiT for any grid (official `modeling_finetune.py`, MIT).

A table holds one column per head and `(2h − 1)·(2w − 1) + 3` rows: one per 2-D offset between two
patches, then [CLS] → patch, patch → [CLS] and [CLS] → [CLS].
"""

from contextlib import nullcontext

import numpy as np
import torch
from scipy.interpolate import make_interp_spline
from torch import Tensor, nn

from .tracing import cached_constant

Grid = tuple[int, int]


class RelativePositionBias(nn.Module):
    """Table shared by all layers, as in pre-training."""

    def __init__(self, grid: Grid, num_heads: int):
        super().__init__()
        self.grid = grid
        self.relative_position_bias_table = new_table(grid, num_heads)

    def forward(self, target: Grid) -> Tensor:
        return position_bias(self.relative_position_bias_table, self.grid, target)


def new_table(grid: Grid, num_heads: int) -> nn.Parameter:
    """Return a table of zeros."""
    return nn.Parameter(torch.zeros(count_table_rows(grid), num_heads))


def count_table_rows(grid: Grid) -> int:
    """Return the number of rows of the table of a grid (h, w): 732 for 14×14."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3


def position_bias(table: Tensor, grid: Grid, target: Grid) -> Tensor:
    """Return the bias of attention logits [H, 1 + N, 1 + N] for the N patches of a target grid."""
    target = int(target[0]), int(target[1])  # tracers pass symbols
    index = _position_index(*target, table.device)
    table = resize_bias_table(table, grid, target)
    if table.device.type == 'cpu':
        # Three times as fast as indexing. On a GPU, its gradient is not deterministic.
        return table.t().index_select(1, index.flatten()).unflatten(1, index.shape)
    return table[index].permute(2, 0, 1).contiguous()


def relative_position_index(grid: Grid) -> Tensor:
    """Return the table row of each (query, key) of [CLS], patch 1 … N: int64 [1 + N, 1 + N]."""
    return _position_index(*grid, torch.device('cpu'))


@cached_constant
def _position_index(h: int, w: int, device: torch.device) -> Tensor:
    num_rows = count_table_rows((h, w))
    y, x = np.arange(h), np.arange(w)
    offset_y = y[:, None] - y + h - 1
    offset_x = x[:, None] - x + w - 1
    offsets = offset_y[:, None, :, None] * (2 * w - 1) + offset_x[:, None, :]
    index = np.full((1 + h * w, 1 + h * w), num_rows - 1)
    index[0, 1:] = num_rows - 3
    index[1:, 0] = num_rows - 2
    index[1:, 1:] = offsets.reshape(h * w, h * w)
    return torch.from_numpy(index).to(device)


def resize_bias_table(table: Tensor, source: Grid, target: Grid) -> Tensor:
    """Resize a table [rows of the source grid, H] to another grid; gradients flow to `table`.

    Each axis is resized by a cubic spline; the three rows of [CLS] are copied. Raises ValueError if
    the table has another number of rows than the source grid.
    """
    if len(table) != count_table_rows(source):
        raise ValueError(
            f'the bias table has {len(table)} rows, expected {count_table_rows(source)} for the '
            f'grid {source}: pass the grid that the table was trained for'
        )
    if source == target:
        return table
    spline_y = _spline_matrix(source[0], target[0], table.device, table.dtype)
    spline_x = _spline_matrix(source[1], target[1], table.device, table.dtype)
    offsets = table[:-3].unflatten(0, (2 * source[0] - 1, -1))
    device = table.device.type
    full_precision = nullcontext() if device == 'meta' else torch.autocast(device, enabled=False)
    with full_precision:
        resized = torch.einsum('ai,bj,ijh->abh', spline_y, spline_x, offsets)
    return torch.cat([resized.flatten(0, 1), table[-3:]])


@cached_constant
def _spline_matrix(source: int, target: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the matrix [2·target − 1, 2·source − 1] that resizes one axis of a table.

    The known offsets lie on a geometric grid among the target's unit-spaced offsets. If the target
    is smaller, the roles change, so that shrinking undoes enlarging.
    """
    known = np.arange(1.0 - source, source)
    wanted = np.arange(1.0 - target, target)
    if source < target:
        known = _geometric_offsets(source, target)
    else:
        wanted = _geometric_offsets(target, source)
    degree = min(3, len(known) - 1)
    spline = make_interp_spline(known, np.eye(len(known)), k=degree)
    # Clipping avoids extrapolation.
    return torch.from_numpy(spline(wanted.clip(known[0], known[-1]))).to(device, dtype)


def _geometric_offsets(small: int, large: int) -> np.ndarray:
    """Return offsets 0, ±1, ±(1 + q), ±(1 + q + q²), … of a small grid within a large one.

    q makes the outermost offsets of both grids equal. So near offsets, which matter most, keep
    their meaning.
    """
    if small == 1:
        return np.zeros(1)
    powers = np.arange(small - 1)
    low, high = 1.0, 4.0 * large / small
    for _ in range(100):  # bisection: the sum of the powers grows with q
        q = (low + high) / 2
        if (q**powers).sum() < large - 1:
            low = q
        else:
            high = q
    distances = np.cumsum(q**powers)
    return np.concatenate([-distances[::-1], [0.0], distances])

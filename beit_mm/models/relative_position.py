"""Relative position bias of BEiT (official `modeling_finetune.py`) for any grid, and its geometric resize.

A table has `(2h − 1)·(2w − 1) + 3` rows (one a 2-D offset, then [S]→patch, patch→[S], [S]→[S]) and a column a head.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from scipy.interpolate import make_interp_spline
from torch import Tensor, nn

Grid = tuple[int, int]


def _constant(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Made once, as what autograd can use: also when it is first asked for in inference mode.

    What it makes says that it lies on the CPU, or it would be without contents if `torch.device('meta')` is on then.
    """
    return lru_cache(maxsize=32)(torch.inference_mode(False)(make))


def table_rows(grid: Grid) -> int:
    """Rows of the table of a grid (h, w): 732 for 14×14."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3


@_constant
def relative_position_index(grid: Grid) -> Tensor:
    """Row of the table for each (query, key) of the sequence [S], patch 1 … N: int64 [1 + N, 1 + N]."""
    h, w = grid
    y, x = torch.meshgrid(torch.arange(h, device='cpu'), torch.arange(w, device='cpu'), indexing='ij')
    y, x = y.flatten(), x.flatten()
    offset = (y[:, None] - y + h - 1) * (2 * w - 1) + (x[:, None] - x + w - 1)
    rows = table_rows(grid)
    index = torch.full((h * w + 1, h * w + 1), rows - 1, device='cpu')
    index[0, 1:], index[1:, 0], index[1:, 1:] = rows - 3, rows - 2, offset
    return index


def _geometric_offsets(small: int, large: int) -> np.ndarray:
    """Where a small grid's offsets lie among a large one's unit-spaced ones: 1, 1 + q, 1 + q + q², … each way.

    q is such that the outermost ones coincide, so that near offsets, which matter most, keep their meaning.
    """
    if small == 1:
        return np.zeros(1)
    low, high = 1.0, 4.0 * large / small  # the sum of the powers grows with q
    for _ in range(100):
        q = (low + high) / 2
        low, high = (q, high) if (q ** np.arange(small - 1)).sum() < large - 1 else (low, q)
    distance = np.cumsum(q ** np.arange(small - 1))
    return np.concatenate([-distance[::-1], [0.0], distance])


def _spline_matrix(source: int, target: int) -> np.ndarray:
    """[2·target − 1, 2·source − 1] f64: the interpolating (not-a-knot) cubic spline through the geometric offsets.

    Shrinking reads the spline at the places from which enlarging would take it, so that one undoes the other.
    """
    if source == target:
        return np.eye(2 * source - 1)
    known, wanted = np.arange(1.0 - source, source), np.arange(1.0 - target, target)
    if source < target:
        known = _geometric_offsets(source, target)
    else:
        wanted = _geometric_offsets(target, source)
    if source == 1:  # one row or column of patches: nothing to interpolate between
        return np.ones((len(wanted), 1))
    degree = min(3, len(known) - 1)  # a source of 2 ends at ±1 whatever the target: beyond, nothing is extrapolated
    return make_interp_spline(known, np.eye(len(known)), k=degree)(wanted.clip(known[0], known[-1]))


@_constant
def resize_matrix(source: Grid, target: Grid) -> Tensor:
    """The constant f64 [rows of target, rows of source] matrix that resizes a table; the 3 [S] rows are copied."""
    offsets = np.kron(_spline_matrix(source[0], target[0]), _spline_matrix(source[1], target[1]))
    return torch.block_diag(torch.from_numpy(offsets), torch.eye(3, dtype=torch.float64, device='cpu'))


def resize_bias_table(table: Tensor, source: Grid, target: Grid) -> Tensor:
    """Resize a table [rows of source, heads] to another grid; gradients flow back to `table`.

    Raises ValueError when the table's rows are not those of the source grid.
    """
    if len(table) != table_rows(source):
        raise ValueError(f'a bias table of grid {source} has {table_rows(source)} rows, this one has {len(table)}')
    if source == target:
        return table
    matrix = _on_device(source, target, table.device, table.dtype)
    return matrix @ table


@_constant
def _on_device(source: Grid, target: Grid, device: torch.device, dtype: torch.dtype) -> Tensor:
    return resize_matrix(source, target).to(device, dtype)


def new_table(grid: Grid, num_heads: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(table_rows(grid), num_heads))


def position_bias(table: Tensor, grid: Grid, target: Grid) -> Tensor:
    """The bias added to the attention logits: [heads, 1 + N, 1 + N] for the target grid's N patches."""
    index, table = _index_on(target, table.device), resize_bias_table(table, grid, target)
    if table.device.type == 'cpu':  # three times as fast there; on a GPU its gradient would be summed in any order
        return table.t().index_select(1, index.flatten()).unflatten(1, index.shape)
    return table[index].permute(2, 0, 1).contiguous()


@_constant
def _index_on(grid: Grid, device: torch.device) -> Tensor:
    """Copied to a GPU once: each copy would wait for it."""
    return relative_position_index(grid).to(device)


class RelativePositionBias(nn.Module):
    """A table shared by all layers, as in pre-training."""

    def __init__(self, grid: Grid, num_heads: int):
        super().__init__()
        self.grid = grid
        self.relative_position_bias_table = new_table(grid, num_heads)

    def forward(self, target: Grid) -> Tensor:
        return position_bias(self.relative_position_bias_table, self.grid, target)

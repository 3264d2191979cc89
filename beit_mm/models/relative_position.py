"""Relative position bias of BEiT (official `modeling_finetune.py`) for any grid, and its geometric resize.

A table has `(2h − 1)·(2w − 1) + 3` rows (one a 2-D offset, then [S]→patch, patch→[S], [S]→[S]) and a column a head.
"""

from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import wraps
from threading import Lock

import numpy as np
import torch
from scipy.interpolate import make_interp_spline
from torch import Tensor, nn

Grid = tuple[int, int]
MAX_CACHE_MB = 64


def constant(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Cache the tensors that `make` returns: at most 64 MiB, or the newest tensor alone if it is larger.

    A tensor is made in a thread of its own, which none of the caller's modes reaches: inference mode, `torch.device('meta')`,
    torch.func, and the tracers of torch.jit, torch.export and torch.compile, whose fake tensors would stay in the cache.
    """
    kept: dict[tuple, Tensor] = {}  # the least recently used first
    lock = Lock()

    @wraps(make)
    def cached(*arguments: Hashable) -> Tensor:
        key = tuple(
            int(value) if isinstance(value, int | torch.SymInt) else value for value in arguments
        )
        with lock:
            found = kept.pop(key, None)
            if found is None:
                with ThreadPoolExecutor(1) as pool:
                    found = pool.submit(make, *key).result()
            kept[key] = found
            while (
                len(kept) > 1
                and sum(tensor.nbytes for tensor in kept.values()) > MAX_CACHE_MB << 20
            ):
                del kept[next(iter(kept))]
        return torch.ops.aten.lift_fresh(found)  # for a tracer, which knows it as a constant then

    cached.kept = kept
    return torch.compiler.allow_in_graph(cached)


def table_rows(grid: Grid) -> int:
    """Rows of the table of a grid (h, w): 732 for 14×14."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3


def relative_position_index(grid: Grid) -> Tensor:
    """Return the row of the table for each (query, key) of the sequence [S], patch 1 … N: int64 [1 + N, 1 + N]."""
    return _index(*grid, torch.device('cpu'))


@constant
def _index(h: int, w: int, device: torch.device) -> Tensor:
    y, x = np.arange(h), np.arange(w)
    rows, offset_y, offset_x = table_rows((h, w)), y[:, None] - y + h - 1, x[:, None] - x + w - 1
    index = np.full((h * w + 1, h * w + 1), rows - 1)
    index[0, 1:], index[1:, 0] = rows - 3, rows - 2
    index[1:, 1:] = (offset_y[:, None, :, None] * (2 * w - 1) + offset_x[:, None, :]).reshape(
        h * w, h * w
    )
    return torch.from_numpy(index).to(device)


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


@constant
def _spline_matrix(source: int, target: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the interpolating (not-a-knot) cubic spline through the geometric offsets: [2·target − 1, 2·source − 1].

    Shrinking reads the spline at the places from which enlarging would take it, so that one undoes the other.
    """
    known, wanted = np.arange(1.0 - source, source), np.arange(1.0 - target, target)
    if source < target:
        known = _geometric_offsets(source, target)
    else:
        wanted = _geometric_offsets(target, source)
    degree = min(
        3, len(known) - 1
    )  # 0 for one row or column of patches: there is nothing to interpolate between
    spline = make_interp_spline(known, np.eye(len(known)), k=degree)
    return torch.from_numpy(spline(wanted.clip(known[0], known[-1]))).to(
        device, dtype
    )  # nothing is extrapolated


def resize_bias_table(table: Tensor, source: Grid, target: Grid) -> Tensor:
    """Resize a table [rows of source, heads] to another grid: along each axis a spline; the 3 [S] rows are copied.

    Gradients flow back to `table`. Raises ValueError when the table's rows are not those of the source grid.
    """
    if len(table) != table_rows(source):
        raise ValueError(
            f'a bias table of grid {source} has {table_rows(source)} rows, this one has {len(table)}'
        )
    if source == target:
        return table
    splines = [
        _spline_matrix(*sides, table.device, table.dtype)
        for sides in zip(source, target, strict=True)
    ]
    offsets = table[:-3].unflatten(0, (2 * source[0] - 1, -1))
    device = table.device.type
    with nullcontext() if device == 'meta' else torch.autocast(device, enabled=False):
        resized = torch.einsum('ai,bj,ijh->abh', *splines, offsets)
    return torch.cat([resized.flatten(0, 1), table[-3:]])


def new_table(grid: Grid, num_heads: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(table_rows(grid), num_heads))


def position_bias(table: Tensor, grid: Grid, target: Grid) -> Tensor:
    """Return the bias added to the attention logits: [heads, 1 + N, 1 + N] for the target grid's N patches."""
    target = int(target[0]), int(target[1])  # a tracer has symbols here
    index, table = _index(*target, table.device), resize_bias_table(table, grid, target)
    if (
        table.device.type == 'cpu'
    ):  # three times as fast there; on a GPU its gradient would be summed in any order
        return table.t().index_select(1, index.flatten()).unflatten(1, index.shape)
    return table[index].permute(2, 0, 1).contiguous()


class RelativePositionBias(nn.Module):
    """A table shared by all layers, as in pre-training."""

    def __init__(self, grid: Grid, num_heads: int):
        super().__init__()
        self.grid = grid
        self.relative_position_bias_table = new_table(grid, num_heads)

    def forward(self, target: Grid) -> Tensor:
        return position_bias(self.relative_position_bias_table, self.grid, target)

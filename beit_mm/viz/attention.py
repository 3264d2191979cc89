"""Attention maps made small enough for a page.

Shapes: N = h·w patches of a grid (h, w).
"""

import numpy as np
import torch
from torch import Tensor

from ..models.attention import attention_of_blocks, attention_rollout, attention_weights
from ..models.relative_position import Grid

__all__ = [
    'attention_of_blocks',
    'attention_rollout',
    'attention_weights',
    'dequantise',
    'patch_at',
    'pool',
    'quantise',
]


def patch_at(x: int, y: int, size: tuple[int, int], grid: Grid) -> tuple[int, int]:
    """(row, column) of the patch that holds the pixel in column `x` and row `y` of an image of `size` (height, width).

    Raises ValueError for a pixel outside.
    """
    height, width = size
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(
            f'there is no pixel {x},{y} in an image of {width}×{height}: give 0,0 … {width - 1},{height - 1}'
        )
    return y * grid[0] // height, x * grid[1] // width


def pool(attention: Tensor, grid: Grid, factor: int) -> tuple[Tensor, Grid]:
    """Attention [..., N, N] between cells of factor × factor patches [..., C, C], and their grid; those at the edge may be smaller.

    A cell takes what its patches take on average, and gives what they give together, so that the sum of a row stays.
    """
    rows, columns = (torch.arange(side) // factor for side in grid)
    cells = (len(rows) - 1) // factor + 1, (len(columns) - 1) // factor + 1
    cell = (rows[:, None] * cells[1] + columns).flatten()
    member = torch.nn.functional.one_hot(cell, cells[0] * cells[1]).to(attention)  # [N, C]
    return (member / member.sum(0)).T @ attention @ member, cells


def quantise(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows f32 [..., N], not negative → uint8 [..., N] and what 255 stands for, f32 [...]: each row's largest value."""
    top = maps.max(-1).astype(np.float32)
    share = maps / np.where(top > 0, top, 1)[..., None]
    return (share * 255).round().astype(np.uint8), top


def dequantise(levels: np.ndarray, top: np.ndarray) -> np.ndarray:
    """The rows again, each value to half of its row's largest / 255."""
    return levels.astype(np.float32) / 255 * top[..., None]

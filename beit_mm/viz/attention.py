"""Attention maps (paper, Figure 2): how much each patch takes from every other, in every block and head.

Shapes: L blocks, H heads, N = h·w patches of a grid (h, w); [CLS] comes first in a sequence of 1 + N.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ..models.beit import BEiT
from ..models.block import Attention
from ..models.relative_position import Grid

Kept = TypeVar('Kept')


def weights(
    module: Attention, x: Tensor, grid: Grid, bias: Tensor | None = None, index: Tensor | None = None
) -> Tensor:
    """Of `Attention.forward`'s arguments, the softmax that it multiplies its values by: [B, H, M, 1 + N], rows sum to 1."""
    q, k, _, bias = module.qkv_bias(x, grid, bias, index)
    scores = q @ k.transpose(-2, -1) / q.size(-1) ** 0.5
    return (scores if bias is None else scores + bias).softmax(-1)


@torch.no_grad()
def of_blocks(
    backbone: BEiT, image: Tensor, keep: Callable[[Tensor], Kept] = lambda attention: attention
) -> list[Kept]:
    """What `keep` makes of each block's attention [B, H, 1 + N, 1 + N] for an image [B, C, H, W] as the backbone takes it.

    A block's attention at a time is in memory, unless `keep` keeps it. Blocks above the last of `out_indices` do not run.
    """
    kept: list[Kept] = []
    hooks = [
        block.attn.register_forward_pre_hook(lambda module, inputs: kept.append(keep(weights(module, *inputs))))
        for block in backbone.blocks
    ]
    try:
        backbone(image)
    finally:
        for hook in hooks:
            hook.remove()
    return kept


def rollout(means: Sequence[Tensor]) -> list[Tensor]:
    """Attention through all blocks up to each one (Abnar and Zuidema, https://arxiv.org/abs/2005.00928, sec. 3), rows sum to 1.

    `means` [..., 1 + N, 1 + N]: each block's attention, the mean of its heads. The residual counts as half of what a block does.
    """
    through: list[Tensor] = []
    for mean in means:
        step = (mean + torch.eye(mean.size(-1), dtype=mean.dtype, device=mean.device)) / 2
        through.append(step @ through[-1] if through else step)
    return through


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


# -- small enough for a page -------------------------------------------------------------------------------------------


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

"""Attention maps of patches: found by pixel, drawn as pictures, and pooled for a page.

Shapes: N = h·w patches of a grid (h, w); [CLS] comes first in a sequence of 1 + N.
"""

import numpy as np
import torch
from torch import Tensor

from ..models import BEiT
from ..models.attention import attention_of_blocks, attention_rollout
from ..models.relative_position import Grid
from .images import frame_patch, overlay_heat

ROLLOUT_RANGE = 0.05, 0.95  # quantiles that get the darkest and the brightest color


def patch_at(x: int, y: int, size: tuple[int, int], grid: Grid) -> tuple[int, int]:
    """Return (row, column) of the patch at pixel (x, y) of an image of `size` (height, width).

    Raises ValueError for a pixel outside the image.
    """
    height, width = size
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(
            f'there is no pixel {x},{y} in an image of {width}×{height}: '
            f'expected 0,0 to {width - 1},{height - 1}'
        )
    return y * grid[0] // height, x * grid[1] // width


def attention_from_patch(
    backbone: BEiT, image: Tensor, patch: tuple[int, int], grid: Grid, layer: int
) -> dict[str, np.ndarray]:
    """Return the attention of one patch to all patches in a layer (1 is the first): name → [h, w].

    The names are `mean` (of the heads), `rollout` (through all layers up to this one) and
    `head-01`, … `image` is normalized, [1, C, H, W].
    """
    index = 1 + patch[0] * grid[1] + patch[1]
    blocks = attention_of_blocks(
        backbone, image, lambda weights: (weights[0, :, index, 1:], weights[0].mean(0))
    )
    heads = blocks[layer - 1][0]
    rollout = attention_rollout([mean for _, mean in blocks[:layer]])[-1]
    maps = dict(mean=heads.mean(0), rollout=rollout[index, 1:])
    maps |= {f'head-{number:02d}': head for number, head in enumerate(heads, 1)}
    return {name: values.view(grid).numpy() for name, values in maps.items()}


def draw_attention(
    image: np.ndarray, name: str, values: np.ndarray, patch: tuple[int, int]
) -> np.ndarray:
    """Draw a map [h, w] of `attention_from_patch` over an image, with a frame around its patch."""
    limits = find_limits(name, values, patch)
    return frame_patch(overlay_heat(image, values, *limits), patch, values.shape)


def find_limits(name: str, values: np.ndarray, patch: tuple[int, int]) -> tuple[float, float]:
    """Return the values of a map [h, w] with the darkest and the brightest color.

    Those of the rollout are quantiles of the other patches: its values differ little, except for a
    few patches such as the patch itself.
    """
    if name != 'rollout' or values.size == 1:
        return 0.0, values.max()
    others = np.delete(values, patch[0] * values.shape[1] + patch[1])
    return tuple(np.quantile(others, ROLLOUT_RANGE, method='lower'))


def pool(attention: Tensor, grid: Grid, factor: int) -> Tensor:
    """Pool attention [..., N, N] of patches to [..., C, C] of cells of factor × factor patches.

    Averages over the attending patches and sums over the attended patches, so rows keep their sum.
    Cells at the right and lower border may have fewer patches.
    """
    rows, columns = (torch.arange(side) // factor for side in grid)
    cell = rows[:, None] * (columns[-1] + 1) + columns
    member = torch.nn.functional.one_hot(cell.flatten()).to(attention)  # [N, C]
    return (member / member.sum(0)).T @ attention @ member

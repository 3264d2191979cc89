"""Embeddings of patches and of absolute positions."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .relative_position import Grid


class PatchEmbed(nn.Module):
    """Linear map of each patch: [B, C, H, W] → [B, N, D]."""

    def __init__(self, channels: int, dims: int, patch_size: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, dims, patch_size, patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


def grid_of(shape: Sequence[int], patch_size: int, name: str = 'patch_size') -> Grid:
    """Return the grid (h, w) of images of shape [B, C, H, W] or (H, W); `name` is for errors."""
    h, w = shape[-2:]
    p = patch_size
    if len(shape) not in (2, 4) or h < 1 or w < 1 or h % p or w % p:
        raise ValueError(
            f'images of shape {tuple(shape)}: expected [B, C, H, W] with H and W multiples '
            f'of {name}={p}. '
            'Pass image[None] for one image; resize, or pad in the data preprocessor with '
            f'pad_size_divisor={p} (mmpretrain) or size_divisor={p} and '
            f'test_cfg=dict(size_divisor={p}) (mmseg)'
        )
    return h // p, w // p


def resize_pos_embed(pos_embed: Tensor, source: Grid, target: Grid) -> Tensor:
    """Resize absolute positions [1, 1 + N, D] to another grid: bilinear patches, [CLS] copied."""
    if source == target:
        return pos_embed
    patches = pos_embed[:, 1:].transpose(1, 2).unflatten(-1, source)
    patches = F.interpolate(patches, size=target, mode='bilinear', align_corners=False)
    return torch.cat([pos_embed[:, :1], patches.flatten(2).transpose(1, 2)], 1)

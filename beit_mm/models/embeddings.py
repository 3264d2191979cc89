"""Embeddings of patches and of absolute positions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .relative_position import Grid


class PatchEmbed(nn.Module):
    """Linear map of each patch, as a convolution: [B, C, H, W] → [B, N, D]."""

    def __init__(self, channels: int, dims: int, patch_size: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, dims, patch_size, patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


def resize_pos_embed(pos_embed: Tensor, source: Grid, target: Grid) -> Tensor:
    """Resize absolute positions [1, 1 + N, D] to another grid: bilinear patches, [CLS] copied."""
    if source == target:
        return pos_embed
    patches = pos_embed[:, 1:].transpose(1, 2).unflatten(-1, source)
    patches = F.interpolate(patches, size=target, mode='bilinear', align_corners=False)
    return torch.cat([pos_embed[:, :1], patches.flatten(2).transpose(1, 2)], 1)

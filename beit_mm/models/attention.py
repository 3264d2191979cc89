"""Attention maps (paper, Figure 2): how much each patch takes from every other, in every block and head.

Shapes: L blocks, H heads, N = h·w patches of a grid (h, w); [CLS] comes first in a sequence of 1 + N.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from .beit import BEiT
from .block import Attention
from .relative_position import Grid

Kept = TypeVar('Kept')


def attention_weights(
    module: Attention,
    x: Tensor,
    grid: Grid,
    bias: Tensor | None = None,
    index: Tensor | None = None,
) -> Tensor:
    """Of `Attention.forward`'s arguments, the softmax that it multiplies its values by: [B, H, M, 1 + N], rows sum to 1."""
    q, k, _, bias = module.project_qkv(x, grid, bias, index)
    scores = q @ k.transpose(-2, -1) / q.size(-1) ** 0.5
    return (scores if bias is None else scores + bias).softmax(-1)


@torch.no_grad()
def attention_of_blocks(
    backbone: BEiT, image: Tensor, keep: Callable[[Tensor], Kept] = lambda attention: attention
) -> list[Kept]:
    """What `keep` makes of each block's attention [B, H, 1 + N, 1 + N] for an image [B, C, H, W] as the backbone takes it.

    A block's attention at a time is in memory, unless `keep` keeps it. Blocks above the last of `out_indices` do not run.
    """
    kept: list[Kept] = []
    hooks = [
        block.attn.register_forward_pre_hook(
            lambda module, inputs: kept.append(keep(attention_weights(module, *inputs)))
        )
        for block in backbone.blocks
    ]
    try:
        backbone(image)
    finally:
        for hook in hooks:
            hook.remove()
    return kept


def attention_rollout(means: Sequence[Tensor]) -> list[Tensor]:
    """Attention through all blocks up to each one (Abnar and Zuidema, https://arxiv.org/abs/2005.00928, sec. 3), rows sum to 1.

    `means` [..., 1 + N, 1 + N]: each block's attention, the mean of its heads. The residual counts as half of what a block does.
    """
    through: list[Tensor] = []
    for mean in means:
        step = (mean + torch.eye(mean.size(-1), dtype=mean.dtype, device=mean.device)) / 2
        through.append(step @ through[-1] if through else step)
    return through

"""Attention maps: how much each patch attends to every other one (paper, Figure 2).

Shapes: B images, H heads, N = h·w patches of a grid (h, w). The first of 1 + N tokens is [CLS].
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from .beit import BEiT
from .block import Attention
from .relative_position import Grid

T = TypeVar('T')


def attention_weights(module: Attention, x: Tensor, grid: Grid, bias: Tensor | None) -> Tensor:
    """Return the softmax [B, H, 1 + N, 1 + N] of `Attention.forward` without `rows`."""
    q, k, _, bias = module.project_qkv(x, grid, bias)
    scores = q @ k.transpose(-2, -1) / q.size(-1) ** 0.5
    return (scores if bias is None else scores + bias).softmax(-1)


@torch.no_grad()
def attention_of_blocks(
    backbone: BEiT, image: Tensor, reduce: Callable[[Tensor], T] = lambda weights: weights
) -> list[T]:
    """Return `reduce(attention [B, H, 1 + N, 1 + N])` per block for images [B, C, H, W].

    Only the results of `reduce` are kept in memory. Blocks after the last of `out_indices` do not
    run.
    """
    results: list[T] = []

    def record(module: Attention, inputs: tuple) -> None:
        x, grid, bias, _ = inputs
        results.append(reduce(attention_weights(module, x, grid, bias)))

    hooks = [block.attn.register_forward_pre_hook(record) for block in backbone.blocks]
    try:
        backbone(image)
    finally:
        for hook in hooks:
            hook.remove()
    return results


def attention_rollout(attention: Sequence[Tensor]) -> list[Tensor]:
    """Return attention from the input to each block (https://arxiv.org/abs/2005.00928, sec. 3).

    `attention` holds the mean of the heads of each block [..., 1 + N, 1 + N]. The residual path
    counts as half of a block. Rows sum to 1.
    """
    rollouts: list[Tensor] = []
    for weights in attention:
        identity = torch.eye(weights.size(-1), dtype=weights.dtype, device=weights.device)
        step = (weights + identity) / 2
        rollouts.append(step @ rollouts[-1] if rollouts else step)
    return rollouts

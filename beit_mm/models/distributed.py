"""Reductions over all ranks that gradients flow through; the identity without a process group."""

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Sum(torch.autograd.Function):
    """Each rank's loss depends on each rank's x: the gradient is summed as well."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return _Sum.forward(ctx, grad)


def sum_over_ranks(x: Tensor) -> Tensor:
    return _Sum.apply(x) if world_size() > 1 else x


def mean_over_ranks(x: Tensor) -> Tensor:
    return sum_over_ranks(x) / world_size()


def broadcast_(x: Tensor) -> Tensor:
    """Overwrite x by rank 0's."""
    if world_size() > 1:
        dist.broadcast(x, 0)
    return x


def histogram(ids: Tensor, size: int) -> Tensor:
    """How often each of 0 … size − 1 occurs: f32 [size]. Unlike `bincount` it does not wait for the device."""
    ids = ids.flatten()
    return torch.zeros(size, device=ids.device).scatter_add_(
        0, ids, torch.ones_like(ids, dtype=torch.float)
    )

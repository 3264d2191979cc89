"""What code needs so that torch.compile, torch.export, torch.jit and torch.func can trace it."""

from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, wraps

import torch
from torch import Tensor


def can_read_values(x: Tensor) -> bool:
    """Return whether Python may branch on the values of `x`.

    False on a GPU, where reading waits for the device, in a tracer, and within torch.func.
    """
    is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    is_transformed = torch._C._are_functorch_transforms_active()
    return x.device.type == 'cpu' and not is_traced and not is_transformed


def cached_constant(compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Cache the last eight tensors that `compute` returns, so that all layers share them.

    `compute` runs in a thread of its own, because the caller's modes do not apply there: inference
    mode, `torch.device('meta')`, torch.func and fake tensors would otherwise stay in the cache.
    """

    @lru_cache(maxsize=8)
    def cached(*arguments: Hashable) -> Tensor:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(compute, *arguments).result()

    @wraps(compute)
    def constant(*arguments: Hashable) -> Tensor:
        # Tracers pass symbols for integers.
        known = [int(a) if isinstance(a, torch.SymInt) else a for a in arguments]
        # A tracer takes a lifted tensor as a constant of its graph.
        return torch.ops.aten.lift_fresh(cached(*known))

    constant.clear_cache = cached.cache_clear
    return torch.compiler.allow_in_graph(constant)

"""Helpers for code that torch.compile, torch.export, torch.jit and torch.func trace."""

from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from threading import Lock

import torch
from torch import Tensor

MAX_CACHE_MB = 64


def can_read_values(x: Tensor) -> bool:
    """Return whether Python may branch on the values of `x`.

    False on a GPU, where reading waits for the device, in a tracer, and within torch.func.
    """
    is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    is_transformed = torch._C._are_functorch_transforms_active()
    return x.device.type == 'cpu' and not is_traced and not is_transformed


def cached_constant(compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Cache the tensors that `compute` returns, so that all layers share them.

    The cache holds at most MAX_CACHE_MB, or the newest tensor alone if it is larger.

    `compute` runs in a thread of its own, because the caller's modes do not apply there: inference
    mode, `torch.device('meta')`, torch.func and fake tensors would otherwise stay in the cache.
    """

    cache: dict[tuple, Tensor] = {}  # least recently used first
    lock = Lock()

    @wraps(compute)
    def constant(*arguments: Hashable) -> Tensor:
        # Tracers pass symbols for integers.
        key = tuple(int(a) if isinstance(a, torch.SymInt) else a for a in arguments)
        with lock:
            if key in cache:
                tensor = cache.pop(key)
            else:
                with ThreadPoolExecutor(1) as pool:
                    tensor = pool.submit(compute, *key).result()
            cache[key] = tensor
            while len(cache) > 1 and sum(t.nbytes for t in cache.values()) > MAX_CACHE_MB << 20:
                del cache[next(iter(cache))]
        # A tracer takes a lifted tensor as a constant of its graph.
        return torch.ops.aten.lift_fresh(tensor)

    constant.cache = cache
    return torch.compiler.allow_in_graph(constant)

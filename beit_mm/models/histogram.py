"""Use of a vocabulary: how often each id occurs."""

import torch
from torch import Tensor


def histogram(ids: Tensor, size: int) -> Tensor:
    """Return how often each of 0 … size − 1 occurs: float32 [size].

    Unlike `torch.bincount`, this does not wait for the device.
    """
    ids = ids.flatten()
    counts = torch.zeros(size, device=ids.device)
    return counts.scatter_add_(0, ids, torch.ones_like(ids, dtype=torch.float))


def entropy(counts: Tensor) -> Tensor:
    """Return the entropy of a histogram in nats."""
    return torch.special.entr(counts / counts.sum().clamp_min(1e-9)).sum()


def perplexity(counts: Tensor) -> Tensor:
    """Return exp(entropy): the number of equally used codes with the same entropy."""
    return entropy(counts).exp()

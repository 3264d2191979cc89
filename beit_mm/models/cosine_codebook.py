"""Codebook of unit vectors that follows the means of its features (VQ-KD, arXiv 2208.06366).

Shapes: P features of d dimensions, all of length 1, and K codes.
"""

import torch
import torch.nn.functional as F
from mmengine.dist import broadcast
from torch import Tensor, nn

from .codebook import choose_distant
from .distributed import sum_over_ranks


class CosineCodebook(nn.Module):
    """Codes that no gradient trains: each moves toward the mean of the features it was chosen for.

    They are a buffer, so a non-finite step that is skipped leaves them unchanged.
    """

    def __init__(self, vocab_size: int, dims: int, decay: float):
        super().__init__()
        self.decay = decay
        self.register_buffer('codes', torch.empty(vocab_size, dims))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.codes.copy_(F.normalize(torch.randn(self.codes.shape), dim=1))

    def nearest(self, features: Tensor) -> Tensor:
        """Return the ids int64 [...] of the codes nearest to features [..., d]."""
        with torch.autocast(features.device.type, enabled=False):
            # Minus half the squared distance, up to a term that is equal for all codes.
            return (features @ self.codes.T - self.codes.square().sum(1) / 2).argmax(-1)

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.codes)

    @torch.no_grad()
    def update(self, features: Tensor, ids: Tensor) -> Tensor:
        """Move the codes toward the means of their features [P, d], over all ranks.

        Codes without features stay. Returns how often each code was chosen on all ranks [K].
        """
        counts, means = mean_directions(features, ids, len(self.codes))
        moved = F.normalize(torch.lerp(self.codes, means, 1 - self.decay), dim=1)
        self.codes.copy_(torch.where(counts[:, None] > 0, moved, self.codes))
        return counts

    @torch.no_grad()
    def start(self, features: Tensor, iterations: int = 10) -> None:
        """Start the codes at the means of clusters of features [P, d] (k-means of directions).

        The first means are distant features of rank 0; all ranks' features count in the means.
        """
        means, _ = choose_distant(features, len(self.codes))
        broadcast(means)
        self.codes.copy_(means)
        for _ in range(iterations):
            counts, means = mean_directions(features, self.nearest(features), len(self.codes))
            self.codes.copy_(torch.where(counts[:, None] > 0, means, self.codes))


def mean_directions(features: Tensor, ids: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return counts [K], and the normalized mean [K, d] of the features of each id, over all ranks.

    A product of matrices, because sums of scattered rows differ from run to run on a GPU.
    """
    members = (ids[:, None] == torch.arange(size, device=ids.device)).to(features.dtype)
    with torch.autocast(features.device.type, enabled=False):
        sums = members.T @ features
    return sum_over_ranks(members.sum(0)), F.normalize(sum_over_ranks(sums), dim=1)

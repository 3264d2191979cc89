"""What representations are worth, in numbers: pure functions of features, attention and ids.

Shapes: N images, D channels, H heads, P = h·w patches of a grid.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.histogram import histogram, perplexity
from ..models.relative_position import Grid


def knn_top1(features: Tensor, labels: Tensor, k: int = 20) -> float:
    """% of images [N, D] whose class [N] the k nearest of the others vote for.

    By cosine, votes weighed by exp(cosine / 0.07) (https://arxiv.org/abs/1805.01978, sec. 3.4).
    """
    unit = F.normalize(features.double(), dim=1)
    similar = (unit @ unit.T).fill_diagonal_(-torch.inf)
    near = similar.topk(min(k, len(labels) - 1), dim=1)
    votes = torch.zeros(len(labels), int(labels.max()) + 1, dtype=torch.double)
    votes.scatter_add_(1, labels[near.indices], ((near.values - 1) / 0.07).exp())
    return _percent(votes.argmax(1), labels)


def linear_probe(features: Tensor, labels: Tensor, ridge: float = 0.1) -> float:
    """% of images [N, D] whose class a linear map finds that was fitted to the other half; both halves are judged.

    Least squares to one-hot labels on channels of mean 0 and variance 1, with a penalty of `ridge` times their number.
    """
    # Drawn halves: in every second image there may be every second class only.
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    x, labels = features.double()[order], labels[order]
    classes, found = F.one_hot(labels).double(), torch.empty_like(labels)
    for fold in (0, 1):
        known, asked = x[fold::2], x[1 - fold :: 2]
        mean, std = known.mean(0), known.std(0) + 1e-12
        known, asked, share = (known - mean) / std, (asked - mean) / std, classes[fold::2].mean(0)
        gram = known @ known.T
        gram.diagonal().add_(ridge * x.size(1))
        found[1 - fold :: 2] = (
            asked @ known.T @ torch.linalg.solve(gram, classes[fold::2] - share) + share
        ).argmax(1)
    return _percent(found, labels)


def _percent(found: Tensor, labels: Tensor) -> float:
    return 100 * (found == labels).double().mean().item()


def effective_rank(features: Tensor) -> float:
    """exp of the entropy of the singular values' shares of features [N, D], mean included: 1 when all images are alike.

    RankMe (https://arxiv.org/abs/2210.02885, eq. 1).
    """
    x = features.double()
    gram = x @ x.T if x.size(0) < x.size(1) else x.T @ x
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    return torch.special.entr(values / values.sum().clamp_min(1e-30)).sum().exp().item()


def attention_distance(attention: Tensor, grid: Grid, patch_size: int) -> Tensor:
    """Attention [B, H, 1 + P, 1 + P] → mean distance in pixels between a patch and what it attends to: [B, H].

    [S] is left out on both sides (https://arxiv.org/abs/2010.11929, fig. 7).
    """
    y, x = torch.meshgrid(
        *(torch.arange(side, device=attention.device) for side in grid), indexing='ij'
    )
    place = patch_size * torch.stack([y.flatten(), x.flatten()], 1).to(attention.dtype)
    among = attention[..., 1:, 1:]
    distance = torch.cdist(place, place, compute_mode='donot_use_mm_for_euclid_dist')
    return ((among * distance).sum(-1) / among.sum(-1).clamp_min(1e-30)).mean(-1)


def code_usage(ids: Tensor, size: int) -> tuple[int, float]:
    """How many of `size` codes occur among ids of any shape, and their perplexity."""
    counts = histogram(ids, size)
    return int((counts > 0).sum()), perplexity(counts).item()

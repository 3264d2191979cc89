"""Measures of representations: functions of features, attention and token ids.

Shapes: N images, D channels, L blocks, H heads, P = h·w patches of a grid.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import BEiT
from ..models.attention import attention_of_blocks
from ..models.relative_position import Grid

MIN_RANK = 2.0  # effective rank; below it, the features of all images are nearly the same


def knn_top1(features: Tensor, labels: Tensor) -> float:
    """Return the accuracy (%) of the 20 nearest neighbors of each image among the others.

    Votes of cosine similarity c have the weight exp(c / 0.07) (https://arxiv.org/abs/1805.01978,
    sec. 3.4). `features` [N, D], `labels` [N].
    """
    unit = F.normalize(features.double(), dim=1)
    similarity = (unit @ unit.T).fill_diagonal_(-torch.inf)
    nearest = similarity.topk(min(20, len(labels) - 1), dim=1)
    votes = torch.zeros(len(labels), int(labels.max()) + 1, dtype=torch.double)
    votes.scatter_add_(1, labels[nearest.indices], ((nearest.values - 1) / 0.07).exp())
    return _accuracy(votes.argmax(1), labels)


def linear_probe(features: Tensor, labels: Tensor) -> float:
    """Return the accuracy (%) of a linear classifier in two-fold cross-validation.

    The classifier is a ridge regression of one-hot labels on standardized channels, with a penalty
    of 0.1 per channel. `features` [N, D], `labels` [N].
    """
    # The halves are random, since every second image may be of every second class.
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    features, labels = features.double()[order], labels[order]
    one_hot = F.one_hot(labels).double()
    predicted = torch.empty_like(labels)
    for fold in (0, 1):
        train, test = features[fold::2], features[1 - fold :: 2]
        mean, std = train.mean(0), train.std(0) + 1e-12
        train, test = (train - mean) / std, (test - mean) / std
        prior = one_hot[fold::2].mean(0)
        gram = train @ train.T
        gram.diagonal().add_(0.1 * features.size(1))
        weights = train.T @ torch.linalg.solve(gram, one_hot[fold::2] - prior)
        predicted[1 - fold :: 2] = (test @ weights + prior).argmax(1)
    return _accuracy(predicted, labels)


def _accuracy(predicted: Tensor, labels: Tensor) -> float:
    return 100 * (predicted == labels).double().mean().item()


def effective_rank(features: Tensor) -> float:
    """Return the exponential of the entropy of the normalized singular values of `features` [N, D].

    It is 1 if all images have the same features. RankMe, https://arxiv.org/abs/2210.02885, eq. 1.
    """
    values = torch.linalg.svdvals(features.double())
    return torch.special.entr(values / values.sum().clamp_min(1e-30)).sum().exp().item()


def attention_distance(attention: Tensor, grid: Grid, patch_size: int) -> Tensor:
    """Return the mean distance [B, H] in pixels between a patch and the patches that it attends to.

    `attention` [B, H, 1 + P, 1 + P]; its row and column of [CLS] are ignored
    (https://arxiv.org/abs/2010.11929, fig. 7).
    """
    ys, xs = (torch.arange(side, device=attention.device) for side in grid)
    centers = patch_size * torch.cartesian_prod(ys, xs).to(attention.dtype)
    distance = torch.cdist(centers, centers, compute_mode='donot_use_mm_for_euclid_dist')
    patches = attention[..., 1:, 1:]
    return ((patches * distance).sum(-1) / patches.sum(-1).clamp_min(1e-30)).mean(-1)


@contextmanager
def record_outputs(
    modules: Iterable[nn.Module], reduce: Callable[[Tensor], Tensor]
) -> Iterator[list[Tensor]]:
    """Collect what `reduce` returns of each output of the modules, in the order of the calls."""
    outputs: list[Tensor] = []

    def record(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        outputs.append(reduce(output))

    handles = [module.register_forward_hook(record) for module in modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def measure_blocks(backbone: BEiT, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return each block's mean patch [L, B, D] and each head's attention distance [L, B, H].

    Images [B, C, H, W] are cropped to whole patches.
    """
    patch = backbone.patch_size
    grid = tuple(side // patch for side in images.shape[-2:])
    images = images[..., : grid[0] * patch, : grid[1] * patch]

    def mean_patch(output: Tensor) -> Tensor:
        return output[:, 1:].mean(1).float().cpu()

    def distance(attention: Tensor) -> Tensor:
        return attention_distance(attention.float(), grid, patch).cpu()

    with record_outputs(backbone.blocks, mean_patch) as features:
        distances = attention_of_blocks(backbone, images, distance)
    return torch.stack(features), torch.stack(distances)

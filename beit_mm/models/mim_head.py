"""Head of masked image modeling: a linear layer with the loss of the paper's eq. 1."""

import torch
import torch.nn.functional as F
from mmengine.dist import get_world_size
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from ..registry import MODELS
from ..utils.arguments import check_integers
from .distributed import mean_over_ranks, sum_over_ranks
from .dvae_losses import at_least_float32
from .histogram import entropy, histogram


@MODELS.register_module()
class MIMHead(BaseModule):
    """Linear head whose loss is a mean over the valid positions of all ranks.

    The target is ids int64 [B, M] (cross-entropy) or pixels float [B, M, C] (mean squared error).
    The mean is exact if ranks have different numbers of valid positions, or none.
    """

    def __init__(self, in_channels: int = 768, out_channels: int = 8192):
        super().__init__()
        check_integers(1, in_channels=in_channels, out_channels=out_channels)
        self.proj = nn.Linear(in_channels, out_channels)
        # Moving average of the targets' histogram.
        self.register_buffer('target_counts', torch.zeros(out_channels))

    def init_weights(self) -> None:
        trunc_normal_(self.proj.weight, std=0.02, a=-0.02, b=0.02)
        nn.init.zeros_(self.proj.bias)
        self.target_counts.zero_()

    def forward(self, features: Tensor) -> Tensor:
        return self.proj(features)

    def loss(
        self,
        features: Tensor,
        target: Tensor,
        valid: Tensor,
        scored: dict[str, Tensor] | None = None,
        aggregated: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the loss at the positions `valid` bool [B, M], and figures to log.

        With `aggregated` [B, M, D], the output of patch aggregation, the loss has two parts,
        `loss_last` and `loss_aggregated`, which mmengine adds and logs as `loss`.

        Tokens have `token_entropy` (nats), the loss of a model that ignores the image, and an
        accuracy (%) per name and positions bool [B, M] of `scored`.
        """
        prediction = at_least_float32(self(features))
        scale = _mean_scale(valid, prediction.dtype)
        logged = dict(loss=_sum_loss(prediction, target, valid) * scale)
        if aggregated is not None:
            loss = _sum_loss(at_least_float32(self(aggregated)), target, valid) * scale
            logged = dict(loss_last=logged['loss'], loss_aggregated=loss)
        if target.is_floating_point():
            return logged
        logged['token_entropy'] = self._update_entropy(target, valid)
        correct = prediction.detach().argmax(-1) == target
        for name, positions in (scored or {}).items():
            # Computing the scale again would cost one more all-reduce.
            share = scale if positions is valid else _mean_scale(positions, prediction.dtype)
            logged[name] = 100 * (correct & positions).sum() * share
        return logged

    @torch.no_grad()
    def _update_entropy(self, target: Tensor, valid: Tensor) -> Tensor:
        """Return the entropy of the targets of about the last hundred iterations, in nats."""
        num_ids = len(self.target_counts)
        # Positions that are not valid fall into one more bin.
        counts = histogram(torch.where(valid, target, num_ids), num_ids + 1)[:-1]
        self.target_counts.mul_(0.99).add_(mean_over_ranks(counts))
        return entropy(self.target_counts)


def _sum_loss(prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Return the sum of the squared errors or cross-entropies at the positions `valid`."""
    if target.is_floating_point():
        return ((prediction - target).square().mean(-1) * valid).sum()
    labels = torch.where(valid, target, -100)
    return F.cross_entropy(prediction.flatten(0, 1), labels.flatten(), reduction='sum')


def _mean_scale(positions: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 1 / (mean number of positions per rank): DDP and the logger take means over ranks."""
    return get_world_size() / sum_over_ranks(positions.sum().to(dtype)).clamp_min(1)

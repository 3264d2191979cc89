"""The head of masked image modeling: one linear map, softmax over the codebook (paper, eq. 1) or squared error."""

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from ..registry import MODELS
from ..utils.arguments import check_integers
from .distributed import histogram, mean_over_ranks, sum_over_ranks, world_size


@MODELS.register_module()
class MIMHead(BaseModule):
    """Features [B, M, D] → losses against ids int64 [B, M] (cross-entropy) or pixels [B, M, C] (mean squared error).

    Means are over the valid places of all ranks, exactly, also when ranks have different numbers of them or none.
    Raises ValueError for a width that is no whole number, at least 1.
    """

    def __init__(
        self, in_channels: int = 768, out_channels: int = 8192, init_cfg: dict | None = None
    ):
        super().__init__(init_cfg)
        check_integers(1, in_channels=in_channels, out_channels=out_channels)
        self.proj = nn.Linear(in_channels, out_channels)
        # How often each id was the target of late: its entropy is the loss of a model that ignores the image.
        self.register_buffer('target_counts', torch.zeros(out_channels))

    def init_weights(self) -> None:
        trunc_normal_(self.proj.weight, std=0.02, a=-0.02, b=0.02)
        nn.init.zeros_(self.proj.bias)
        self.target_counts.zero_()
        super().init_weights()

    def forward(self, features: Tensor) -> Tensor:
        return self.proj(features)

    def loss(
        self,
        features: Tensor,
        target: Tensor,
        valid: Tensor,
        places: dict[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return the loss of features [B, M, D] at the places that count, `valid` bool [B, M], and what is logged beside it.

        Of tokens that is `token_entropy` (nats) and an accuracy (%) under each name of `places`, bool [B, M]; by default
        `masked_accuracy` of the valid ones.
        """
        prediction = self(features)
        prediction = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
        scale = _scale(valid, prediction.dtype)
        if target.is_floating_point():
            error = F.mse_loss(prediction, target.to(prediction.dtype), reduction='none').mean(-1)
            return dict(loss=(error * valid).sum() * scale)
        labels = torch.where(valid, target, -100)
        loss = F.cross_entropy(prediction.flatten(0, 1), labels.flatten(), reduction='sum') * scale
        correct = prediction.detach().argmax(-1) == labels
        accuracies = {
            name: 100
            * (correct & among).sum()
            * (scale if among is valid else _scale(among, prediction.dtype))
            for name, among in (places or dict(masked_accuracy=valid)).items()
        }
        return dict(loss=loss, token_entropy=self._entropy(target, valid), **accuracies)

    @torch.no_grad()
    def _entropy(self, target: Tensor, valid: Tensor) -> Tensor:
        """Entropy of the ids that were targets in about the last hundred iterations."""
        spare = torch.where(
            valid, target, self.target_counts.numel()
        )  # unused places fall into one more bin
        counts = histogram(spare, self.target_counts.numel() + 1)[:-1]
        self.target_counts.mul_(0.99).add_(mean_over_ranks(counts))
        share = self.target_counts / self.target_counts.sum().clamp_min(1e-9)
        return torch.special.entr(share).sum()


def _scale(among: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what makes this rank's sum over places its share of the mean over all ranks' places.

    DDP divides by the number of ranks afterwards, and so does the mean over ranks that is logged.
    """
    return world_size() / sum_over_ranks(among.sum().to(dtype)).clamp_min(1)

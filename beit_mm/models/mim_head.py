"""The head of masked image modeling: one linear map, softmax over the codebook (paper, eq. 1) or squared error."""

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from ..registry import MODELS
from ..settings import whole
from .distributed import histogram, mean_over_ranks, sum_over_ranks, world_size


@MODELS.register_module()
class MIMHead(BaseModule):
    """Features [B, M, D] → losses against ids int64 [B, M] (cross-entropy) or pixels [B, M, C] (mean squared error).

    Means are over the valid places of all ranks, exactly, also when ranks have different numbers of them or none.
    Raises ValueError for a width that is no whole number, at least 1.
    """

    def __init__(self, in_channels: int = 768, out_channels: int = 8192, init_cfg: dict | None = None):
        super().__init__(init_cfg)
        whole(1, in_channels=in_channels, out_channels=out_channels)
        self.proj = nn.Linear(in_channels, out_channels)
        # How often each id was the target of late: its entropy is the loss of a model that ignores the image.
        self.register_buffer('target_counts', torch.zeros(out_channels))

    def init_weights(self) -> None:
        trunc_normal_(self.proj.weight, std=0.02, a=-0.02, b=0.02)
        nn.init.zeros_(self.proj.bias)
        super().init_weights()

    def forward(self, features: Tensor) -> Tensor:
        return self.proj(features)

    def loss(self, features: Tensor, target: Tensor, valid: Tensor) -> dict[str, Tensor]:
        """Of features [B, M, D] and their targets; `valid` bool [B, M]: places that count.

        Logs the loss and, of tokens, `masked_accuracy` (%), `token_entropy` (nats).
        """
        prediction = self(features)
        prediction = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
        count = valid.sum().to(prediction.dtype)
        scale = world_size() / sum_over_ranks(count).clamp_min(1)  # DDP will divide by the number of ranks
        if target.is_floating_point():
            return dict(loss=(F.mse_loss(prediction, target, reduction='none').mean(-1) * valid).sum() * scale)
        labels = torch.where(valid, target, -100)
        loss = F.cross_entropy(prediction.flatten(0, 1), labels.flatten(), reduction='sum') * scale
        correct = (prediction.detach().argmax(-1) == labels).sum() * scale
        return dict(loss=loss, masked_accuracy=100 * correct, token_entropy=self._entropy(target, valid))

    @torch.no_grad()
    def _entropy(self, target: Tensor, valid: Tensor) -> Tensor:
        """Entropy of the ids that were targets in about the last hundred iterations."""
        spare = torch.where(valid, target, self.target_counts.numel())  # unused places fall into one more bin
        counts = histogram(spare, self.target_counts.numel() + 1)[:-1]
        self.target_counts.mul_(0.99).add_(mean_over_ranks(counts))
        share = self.target_counts / self.target_counts.sum().clamp_min(1e-9)
        return torch.special.entr(share).sum()

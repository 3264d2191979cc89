"""Ablation of BEiT whose patches do not see each other."""

from torch import nn

from ..registry import MODELS
from .beit import BEiT


@MODELS.register_module()
class PatchwiseBEiT(BEiT):
    """BEiT whose attention adds zero: a baseline of what single patches tell about the target."""

    def __init__(self, **settings):
        super().__init__(**settings)
        for block in self.blocks:
            block.attn.proj.requires_grad_(False)

    def init_weights(self) -> None:
        super().init_weights()
        for block in self.blocks:
            nn.init.zeros_(block.attn.proj.weight)
            nn.init.zeros_(block.attn.proj.bias)

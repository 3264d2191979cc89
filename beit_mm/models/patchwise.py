"""BEiT whose patches never see each other: what the patches alone tell, the floor of a data set."""

from torch import nn

from ..registry import MODELS
from .beit import BEiT


@MODELS.register_module()
class PatchwiseBEiT(BEiT):
    """BEiT with attention that adds exactly nothing; the MLP of each block works on every patch by itself."""

    def __init__(self, **settings):
        super().__init__(**settings)
        for (
            block
        ) in self.blocks:  # frozen before the optimizer is built; zero from `init_weights` on
            block.attn.proj.requires_grad_(False)

    def init_weights(self) -> None:
        super().init_weights()
        for block in self.blocks:
            nn.init.zeros_(block.attn.proj.weight)
            nn.init.zeros_(block.attn.proj.bias)

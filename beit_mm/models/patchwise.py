"""Ablation of BEiT whose patches do not see each other."""

from torch import nn

from ..registry import MODELS
from .beit import BEiT
from .block import Attention


@MODELS.register_module()
class PatchwiseBEiT(BEiT):
    """BEiT whose attention adds zero: a baseline of what single patches tell about the target."""

    def __init__(self, **settings):
        super().__init__(**settings)
        for projection in self._projections():
            projection.requires_grad_(False)

    def init_weights(self) -> None:
        super().init_weights()
        for projection in self._projections():
            nn.init.zeros_(projection.weight)
            nn.init.zeros_(projection.bias)

    def _projections(self) -> list[nn.Module]:
        return [module.proj for module in self.modules() if isinstance(module, Attention)]

"""Initial values for the layers of mmseg's heads."""

from mmcv.cnn import ConvModule
from torch import nn
from torch.nn.modules.batchnorm import _NormBase


class ResetLayers:
    """Mixin for mmseg's heads, whose own `init_weights` does not reach all layers."""

    def init_weights(self) -> None:
        """Set every parameter and running statistic, then apply `init_cfg`."""
        for module in self.modules():
            if isinstance(module, ConvModule):
                module.init_weights()
            elif isinstance(module, _NormBase | nn.LayerNorm):
                module.reset_parameters()
        super().init_weights()

"""Initial values for the layers of mmseg's heads."""

from mmcv.cnn import ConvModule
from torch import nn
from torch.nn.modules.batchnorm import _NormBase


def reset_layers(head: nn.Module) -> None:
    """Set convolutions, norms and running statistics to their initial values.

    `init_weights` of mmseg's heads does not reach all of them.
    """
    for module in head.modules():
        if isinstance(module, ConvModule):
            module.init_weights()
        elif isinstance(module, _NormBase | nn.LayerNorm):
            module.reset_parameters()

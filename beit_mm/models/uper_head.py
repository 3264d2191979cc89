"""UPerNet head of mmseg with a faster last convolution in evaluation."""

import torch
import torch.nn.functional as F
from mmseg.models import UPerHead as MMSegUPerHead
from torch import Tensor, nn

from ..registry import MODELS
from .plain_layers import is_hooked, is_plain
from .reset_layers import ResetLayers


@MODELS.register_module()
class UPerHead(ResetLayers, MMSegUPerHead):
    """mmseg's UPerHead with the same weights and outputs, faster in evaluation.

    `convolve_resized` replaces its last convolution, unless something is attached to that layer.
    mmseg's code also runs in training, under autocast (which would round each product of the
    kernel), and in a graph (where one convolution is faster than these many steps).
    """

    def _forward_feature(self, inputs: list[Tensor]) -> Tensor:
        last = self.fpn_bottleneck
        if self.training or not self._can_use_weights(inputs[0].device.type):
            return super()._forward_feature(inputs)
        inputs = self._transform_inputs(inputs)
        laterals = [lateral(x) for lateral, x in zip(self.lateral_convs, inputs[:-1], strict=True)]
        laterals.append(self.psp_forward(inputs))
        for i in range(len(laterals) - 1, 0, -1):
            finer = laterals[i - 1]
            laterals[i - 1] = finer + _resize(laterals[i], finer.shape[2:], self.align_corners)
        levels = [conv(x) for conv, x in zip(self.fpn_convs, laterals[:-1], strict=True)]
        levels.append(laterals[-1])
        out = convolve_resized(levels, last.conv.weight, self.align_corners)
        return last.activate(last.norm(out))

    def _can_use_weights(self, device: str) -> bool:
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return False
        if device != 'meta' and torch.is_autocast_enabled(device):
            return False
        last = self.fpn_bottleneck
        return is_plain(last.conv, nn.Conv2d) and not is_hooked(last) and last.with_norm


def convolve_resized(levels: list[Tensor], weight: Tensor, align_corners: bool = False) -> Tensor:
    """Return the 3×3 convolution, padding 1, of levels resized to the first one and concatenated.

    Resizing mixes positions, and each of the kernel's nine products mixes channels, so their order
    may change: coarse levels are multiplied at their own resolution, then resized and shifted. This
    takes a third of UPerNet's operations. Results are equal except for rounding.

    Args:
        levels: [B, C_i, H_i, W_i] each, the largest first.
        weight: [O, ΣC_i, 3, 3].
    """
    first_weight, *weights = weight.split([level.shape[1] for level in levels], 1)
    out = F.conv2d(levels[0], first_weight, padding=1)
    height, width = out.shape[2:]
    for level, kernel in zip(levels[1:], weights, strict=True):
        flat_kernel = kernel.permute(2, 3, 0, 1).flatten(0, 2)[..., None, None]
        products = F.conv2d(level, flat_kernel).unflatten(1, (3, 3, -1))
        level_height = level.shape[2]
        for dy in range(3):
            rows = products.new_zeros(len(level), len(weight), level_height, width)
            for dx in range(3):
                wide = _resize(products[:, dy, dx], (level_height, width), align_corners)
                _add_shifted(rows, wide, dx - 1, dim=3)
            _add_shifted(out, _resize(rows, (height, width), align_corners), dy - 1, dim=2)
    return out


def _resize(x: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    return F.interpolate(x, size, mode='bilinear', align_corners=align_corners)


def _add_shifted(out: Tensor, values: Tensor, shift: int, dim: int) -> None:
    """Add values[i + shift] to out[i] along a dimension, where both exist."""
    length = out.shape[dim] - abs(shift)
    target = out.narrow(dim, max(0, -shift), length)
    target.add_(values.narrow(dim, max(0, shift), length))

"""mmseg's UPerNet head, whose last convolution reads the coarse levels where they are coarse."""

import torch
import torch.nn.functional as F
from mmseg.models import UPerHead as _UPerHead
from torch import Tensor, nn

from ..registry import MODELS
from .block import is_hooked, is_plain
from .setr_pup_head import reset_layers


def convolve_resized(levels: list[Tensor], weight: Tensor, align_corners: bool = False) -> Tensor:
    """A 3×3 convolution, padding 1, of levels that are resized (bilinear) to the first one's size and concatenated.

    Resizing mixes places, a tap of the kernel mixes channels, so either may be first: the nine taps meet a coarse level at
    its own few places, and their products are resized and shifted, along one axis after the other. Equal but for rounding,
    with a third of UPerNet's operations (levels of 1, 1/4, 1/16 and 1/64 of the places).

    Args:
        levels: [B, C_i, H_i, W_i] each, the largest first.
        weight: [O, ΣC_i, 3, 3].

    Returns:
        [B, O, H_0, W_0]
    """
    first, *coarse = levels
    own, *weights = weight.split([level.shape[1] for level in levels], 1)
    out = F.conv2d(first, own, padding=1)
    height, width = out.shape[2:]
    for level, kernel in zip(coarse, weights, strict=True):
        taps = F.conv2d(level, kernel.permute(2, 3, 0, 1).flatten(0, 2)[..., None, None]).unflatten(
            1, (3, 3, -1)
        )
        for dy in range(3):
            rows = taps.new_zeros(*taps.shape[:1], *taps.shape[3:5], width)
            for dx in range(3):
                wide = _resized(taps[:, dy, dx], (taps.shape[4], width), align_corners)
                _add_shifted(rows, wide, dx - 1, 3)
            _add_shifted(out, _resized(rows, (height, width), align_corners), dy - 1, 2)
    return out


def _resized(x: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    return F.interpolate(x, size, mode='bilinear', align_corners=align_corners)


def _add_shifted(out: Tensor, values: Tensor, shift: int, dim: int) -> None:
    """out[i] += values[i + shift] along an axis, where there is such a value."""
    length = out.shape[dim] - abs(shift)
    out.narrow(dim, max(0, -shift), length).add_(values.narrow(dim, max(0, shift), length))


@MODELS.register_module()
class UPerHead(_UPerHead):
    """mmseg's UPerHead, with its weights and outputs, faster in evaluation: see `convolve_resized`.

    mmseg's code runs in training, under autocast (which would round the taps one by one), in a graph (an export's runtime has one
    fast convolution for these many steps), and for a convolution that is not plain (`is_plain`) or has no normalization.
    """

    def init_weights(self) -> None:
        """Set every parameter and running statistic to its initial value, then what `init_cfg` says."""
        reset_layers(self)
        super().init_weights()

    def _forward_feature(self, inputs: list[Tensor]) -> Tensor:
        last = self.fpn_bottleneck
        plain = is_plain(last.conv, nn.Conv2d) and not is_hooked(last) and last.with_norm
        device = inputs[0].device.type
        in_graph = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if (
            self.training
            or not plain
            or in_graph
            or (device != 'meta' and torch.is_autocast_enabled(device))
        ):
            return super()._forward_feature(inputs)
        inputs = self._transform_inputs(inputs)
        laterals = [lateral(x) for lateral, x in zip(self.lateral_convs, inputs[:-1], strict=True)]
        laterals.append(self.psp_forward(inputs))
        for i in range(len(laterals) - 1, 0, -1):
            finer = laterals[i - 1]
            laterals[i - 1] = finer + _resized(laterals[i], finer.shape[2:], self.align_corners)
        levels = [
            conv(lateral) for conv, lateral in zip(self.fpn_convs, laterals[:-1], strict=True)
        ]
        out = convolve_resized([*levels, laterals[-1]], last.conv.weight, self.align_corners)
        return last.activate(last.norm(out))

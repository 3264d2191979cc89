"""Progressive upsampling decoder of SETR (https://arxiv.org/abs/2012.15840, sec. 3.3), BEiT's segmentation layer."""

from numbers import Integral

import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ..registry import MODELS
from ..utils.arguments import check_integers, check_numbers


def reset_layers(head: nn.Module) -> None:
    """Set convolutions, norms and running statistics to their initial values; mmseg's `init_weights` does not reach all of them."""
    for module in head.modules():
        if isinstance(module, ConvModule):
            module.init_weights()
        elif isinstance(module, _NormBase | nn.LayerNorm):
            module.reset_parameters()


@MODELS.register_module()
class SETRPUPHead(BaseDecodeHead):
    """LayerNorm, then `num_stages` doublings of the map, then a 1×1 classifier.

    Features [B, in_channels, h, w] of one level → logits [B, num_classes, h·s, w·s] with s = 2^num_stages: four
    stages bring patch 16 back to the image's size, three patch 8; auxiliary heads take fewer. mmseg's own SETRUPHead
    is right but bilinear only; this one adds the deconvolution, classifies before the last ×2, names wrong arguments.

    Args:
        in_channels: the backbone's width.
        channels: width of the decoder; 256 is SETR's own, BEiT's paper states none.
        num_stages: doublings, ≥ 1.
        upsample: 'bilinear', a 3×3 convolution, norm, ReLU and ×2 a stage, as SETR does it; or 'deconv', a transposed
            4×4 convolution of stride 2, norm and ReLU, the "deconvolution layers" in BEiT's words.
        dropout_ratio: before the classifier; the paper's run has none.
        kwargs: of mmseg's BaseDecodeHead: `num_classes`, `norm_cfg`, `in_index` (which level), `loss_decode` …

    Raises ValueError for another `upsample`, `num_stages` < 1, or more than one input level.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 256,
        num_stages: int = 4,
        upsample: str = 'bilinear',
        dropout_ratio: float = 0.0,
        **kwargs,
    ):
        if upsample not in ('bilinear', 'deconv'):
            raise ValueError(f"upsample={upsample!r} is unknown: choose 'bilinear' or 'deconv'")
        levels = (in_channels, kwargs.get('in_index', -1))
        if (
            not all(isinstance(i, Integral) for i in levels)
            or kwargs.get('input_transform') is not None
        ):
            raise ValueError(
                f'in_channels={in_channels}, in_index={levels[1]}, input_transform={kwargs.get("input_transform")}: '
                'SETRPUPHead reads one level, so the first two have to be an int and the third None'
            )
        if not isinstance(num_stages, Integral) or num_stages < 1:
            raise ValueError(
                f'num_stages={num_stages!r}: give 4 for patch 16, 3 for patch 8, at least 1'
            )
        check_integers(1, in_channels=in_channels, channels=channels)
        if 'num_classes' in kwargs:
            check_integers(1, num_classes=kwargs['num_classes'])
        check_numbers(0, dropout_ratio=dropout_ratio)
        in_channels, channels, kwargs['in_index'] = int(in_channels), int(channels), int(levels[1])
        super().__init__(
            in_channels=in_channels, channels=channels, dropout_ratio=dropout_ratio, **kwargs
        )
        self.bilinear = upsample == 'bilinear'
        conv = (
            dict(kernel_size=3, padding=1)
            if self.bilinear
            else dict(kernel_size=4, stride=2, padding=1)
        )
        conv_cfg = self.conv_cfg if self.bilinear else dict(type='deconv')
        self.norm = nn.LayerNorm(
            in_channels, eps=1e-6
        )  # a BEiT feature map is a block's output, not normalised yet
        self.stages = nn.ModuleList(
            ConvModule(
                in_c,
                channels,
                **conv,
                conv_cfg=conv_cfg,
                norm_cfg=self.norm_cfg,
                act_cfg=self.act_cfg,
            )
            for in_c in [in_channels] + [channels] * (num_stages - 1)
        )

    def init_weights(self) -> None:
        """Set every parameter and running statistic to its initial value, then what `init_cfg` says."""
        reset_layers(self)
        super().init_weights()

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        x = self.norm(self._transform_inputs(inputs).movedim(1, -1)).movedim(-1, 1).contiguous()
        for i, stage in enumerate(self.stages):
            x = stage(self._double(x) if self.bilinear and i else x)
        # A 1×1 convolution and an interpolation commute: classifying first saves the widest map of all.
        return self._double(self.cls_seg(x)) if self.bilinear else self.cls_seg(x)

    def _double(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode='bilinear', align_corners=self.align_corners)

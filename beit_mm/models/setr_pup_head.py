"""Progressive upsampling decoder of SETR (https://arxiv.org/abs/2012.15840, sec. 3.3)."""

import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from ..registry import MODELS
from ..utils.arguments import check_choices, check_integers, check_numbers
from .reset_layers import ResetLayers


@MODELS.register_module()
class SETRPUPHead(ResetLayers, BaseDecodeHead):
    """BEiT's segmentation head: LayerNorm, stages that double the map, and a 1×1 classifier.

    Features [B, in_channels, h, w] of one level become logits [B, num_classes, h·2^s, w·2^s] after
    s stages. Unlike mmseg's SETRUPHead, it also has the paper's deconvolutions, and classifies
    before the last doubling, which saves the largest map.

    Args:
        in_channels: channels of the backbone.
        channels: channels of the stages; 256 is SETR's, BEiT's paper states none.
        num_stages: doublings: 4 for patch size 16, 3 for 8, fewer for auxiliary heads.
        upsample: 'bilinear' (3×3 convolution and ×2 interpolation per stage, as in SETR) or
            'deconv' (4×4 deconvolution of stride 2, as BEiT's paper says).
        dropout_ratio: dropout before the classifier; the paper's run has none.
        kwargs: other arguments of mmseg's BaseDecodeHead: `num_classes`, `in_index`, `norm_cfg`, …
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
        check_choices(('bilinear', 'deconv'), upsample=upsample)
        check_integers(1, in_channels=in_channels, channels=channels, num_stages=num_stages)
        check_numbers(0, dropout_ratio=dropout_ratio)
        super().__init__(
            in_channels=in_channels, channels=channels, dropout_ratio=dropout_ratio, **kwargs
        )
        self.is_bilinear = upsample == 'bilinear'
        conv = dict(kernel_size=3, padding=1, conv_cfg=self.conv_cfg)
        if not self.is_bilinear:
            conv = dict(kernel_size=4, stride=2, padding=1, conv_cfg=dict(type='deconv'))
        # A feature map of BEiT is the output of a block without norm.
        self.norm = nn.LayerNorm(in_channels, eps=1e-6)
        self.stages = nn.ModuleList()
        for _ in range(num_stages):
            stage = ConvModule(
                in_channels, channels, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg, **conv
            )
            self.stages.append(stage)
            in_channels = channels

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        x = self._transform_inputs(inputs)
        x = self.norm(x.movedim(1, -1)).movedim(-1, 1).contiguous()
        for i, stage in enumerate(self.stages):
            if self.is_bilinear and i > 0:
                x = self._double(x)
            x = stage(x)
        # A 1×1 convolution and an interpolation commute.
        logits = self.cls_seg(x)
        return self._double(logits) if self.is_bilinear else logits

    def _double(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode='bilinear', align_corners=self.align_corners)

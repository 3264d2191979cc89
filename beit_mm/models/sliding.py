"""Sliding-window segmentation whose windows go through the model together."""

import torch
from mmseg.models import EncoderDecoder as Stock
from torch import Tensor

from ..registry import MODELS


def starts(size: int, crop: int, stride: int) -> list[int]:
    """Where mmseg's windows begin along a side: every `stride`, the last one at the end."""
    number = max(size - crop + stride - 1, 0) // stride + 1
    return [max(min(i * stride, size - crop), 0) for i in range(number)]


@MODELS.register_module()
class EncoderDecoder(Stock):
    """mmseg's segmentor; in slide mode up to `test_cfg.windows` (8) windows of all images pass at once.

    Logits are mmseg's but for rounding: the same windows, added up in the same order, and divided by how many there are.
    """

    def slide_inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Image [B, C, H, W] → logits [B, classes, H, W]."""
        batch, _, height, width = inputs.shape
        (high, wide), (down, right) = self.test_cfg.crop_size, self.test_cfg.stride
        places = [
            (top, left) for top in starts(height, high, down) for left in starts(width, wide, right)
        ]
        windows = [
            (i, slice(top, top + high), slice(left, left + wide))
            for top, left in places
            for i in range(batch)
        ]
        logits = inputs.new_zeros(batch, self.out_channels, height, width)
        count = inputs.new_zeros(height, width)
        for top, left in places:
            count[top : top + high, left : left + wide] += 1
        together = self.test_cfg.get('windows', 8)
        for first in range(0, len(windows), together):
            part = windows[first : first + together]
            crops = torch.stack([inputs[i, :, rows, columns] for i, rows, columns in part])
            batch_img_metas[0]['img_shape'] = crops.shape[2:]  # the head resizes its logits to this
            for (i, rows, columns), window in zip(
                part, self.encode_decode(crops, batch_img_metas), strict=True
            ):
                logits[i, :, rows, columns] += window
        return logits.div_(count)

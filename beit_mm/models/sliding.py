"""Segmentation by sliding windows that pass through the model in batches."""

import torch
from mmseg.models import EncoderDecoder as MMSegEncoderDecoder
from torch import Tensor

from ..registry import MODELS


@MODELS.register_module()
class EncoderDecoder(MMSegEncoderDecoder):
    """mmseg's segmentor that runs up to `test_cfg.windows` (8) sliding windows at once.

    Logits equal mmseg's except for rounding: the same windows are added in the same order.
    """

    def slide_inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Return logits [B, classes, H, W] of images [B, C, H, W]."""
        batch, _, height, width = inputs.shape
        crop_h, crop_w = self.test_cfg.crop_size
        stride_h, stride_w = self.test_cfg.stride
        windows = []
        count = inputs.new_zeros(height, width)
        for top in window_starts(height, crop_h, stride_h):
            for left in window_starts(width, crop_w, stride_w):
                rows, columns = slice(top, top + crop_h), slice(left, left + crop_w)
                count[rows, columns] += 1
                windows += [(i, rows, columns) for i in range(batch)]
        logits = inputs.new_zeros(batch, self.out_channels, height, width)
        window_batch = self.test_cfg.get('windows', 8)
        for first in range(0, len(windows), window_batch):
            part = windows[first : first + window_batch]
            crops = torch.stack([inputs[i, :, rows, columns] for i, rows, columns in part])
            # The head resizes its logits to this size.
            batch_img_metas[0]['img_shape'] = crops.shape[2:]
            results = self.encode_decode(crops, batch_img_metas)
            for (i, rows, columns), result in zip(part, results, strict=True):
                logits[i, :, rows, columns] += result
        return logits.div_(count)


def window_starts(size: int, crop: int, stride: int) -> list[int]:
    """Return where mmseg's windows start along a side: every `stride`, the last one at the end."""
    count = max(size - crop + stride - 1, 0) // stride + 1
    return [max(min(i * stride, size - crop), 0) for i in range(count)]

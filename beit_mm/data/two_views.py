"""One crop, two resolutions: the patches that the model reads and the image that the tokenizer reads."""

import math

import mmcv
import numpy as np
import torch
from mmcv.image.geometric import pillow_interp_codes
from mmcv.transforms import BaseTransform
from mmengine.structures import BaseDataElement

from ..registry import TRANSFORMS
from ..settings import one_of, span, whole


def random_crop(
    rng: np.random.RandomState, size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of torchvision's RandomResizedCrop: area share and log-uniform width / height.

    After ten draws that do not fit, the largest central crop of an allowed ratio.
    """
    height, width = size
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.randint(height - h + 1)), int(rng.randint(width - w + 1)), h, w
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    return (height - h) // 2, (width - w) // 2, h, w


@TRANSFORMS.register_module()
class TwoViews(BaseTransform):
    """Adds `patch_view` and `token_view` (uint8, HWC), the same crop of `img` at two sizes, resized as PIL does (antialiased).

    Args:
        size, token_size: pixels of the square views; `token_size` None leaves the token view out (pixel targets).
        scale, ratio: of the random crop; `scale=None` takes the whole image (validation).
        interpolation, token_interpolation: PIL's names; the official ones are bicubic and lanczos.

    Raises ValueError for a setting that is none of these.
    """

    def __init__(
        self,
        size: int = 224,
        token_size: int | None = 112,
        scale: tuple[float, float] | None = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        interpolation: str = 'bicubic',
        token_interpolation: str = 'lanczos',
    ):
        whole(1, size=size, token_size=size if token_size is None else token_size)
        if scale is not None:
            span(1, scale=scale)
        span(ratio=ratio)
        one_of(pillow_interp_codes, interpolation=interpolation, token_interpolation=token_interpolation)
        self.views = [('patch_view', size, interpolation)]
        if token_size is not None:
            self.views.append(('token_view', token_size, token_interpolation))
        self.scale, self.ratio = scale, ratio

    def transform(self, results: dict) -> dict:
        image = results['img']
        if self.scale:
            top, left, height, width = random_crop(np.random, image.shape[:2], self.scale, self.ratio)
            image = image[top : top + height, left : left + width]
        for name, side, interpolation in self.views:
            same = image.shape[:2] == (side, side)  # PIL copies then as well
            results[name] = (
                image if same else mmcv.imresize(image, (side, side), interpolation=interpolation, backend='pillow')
            )
        return results


@TRANSFORMS.register_module()
class PackViews(BaseTransform):
    """Views and mask → `inputs` (uint8 RGB [3, H, W] each, bool [h, w]) and a `data_samples` that knows the file and label."""

    def transform(self, results: dict) -> dict:
        inputs = {
            name: torch.from_numpy(np.ascontiguousarray(results[name][..., ::-1].transpose(2, 0, 1)))
            for name in ('patch_view', 'token_view')
            if name in results
        }
        if 'mask' in results:
            inputs['mask'] = torch.from_numpy(results['mask'])
        meta = {key: results[key] for key in ('img_path', 'sample_idx', 'gt_label') if key in results}
        return dict(inputs=inputs, data_samples=BaseDataElement(metainfo=meta))

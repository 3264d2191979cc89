"""One crop, two resolutions: the patches that the model reads and the image that the tokenizer reads."""

import math
from functools import cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmcv.image.geometric import pillow_interp_codes
from mmcv.transforms import BaseTransform
from mmengine.structures import BaseDataElement
from PIL import Image

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


def resize(image: np.ndarray, side: int, interpolation: str, backend: str = 'pillow') -> np.ndarray:
    """uint8 [H, W, 3] → [side, side, 3], antialiased, by PIL's rules; PIL copies what has the right size already."""
    if image.shape[:2] == (side, side):
        return image
    if backend == 'torch' and torch_resizes(interpolation):
        planes = torch.from_numpy(image).permute(2, 0, 1)[None]
        found = F.interpolate(planes, size=(side, side), mode=interpolation, antialias=True)
        return cv2.merge(list(found[0].numpy()))  # channels last, in a tenth of numpy's time
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling[interpolation.upper()]))


@cache
def torch_resizes(interpolation: str) -> bool:
    """Whether this version of torch resizes bytes so."""
    try:
        F.interpolate(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), size=(2, 2), mode=interpolation, antialias=True)
    except (NotImplementedError, RuntimeError, ValueError):
        return False
    return True


@TRANSFORMS.register_module()
class TwoViews(BaseTransform):
    """Adds `patch_view` and `token_view` (uint8, HWC), the same crop of `img` at two sizes, resized as PIL does (antialiased).

    What `ColorJitter` drew is done to the views.

    Args:
        size, token_size: pixels of the square views; `token_size` None leaves the token view out (pixel targets).
        scale, ratio: of the random crop; `scale=None` takes the whole image (validation).
        interpolation, token_interpolation: PIL's names; the official ones are bicubic and lanczos.
        backend: 'pillow' is PIL itself. 'torch' is four times as fast; its bytes differ from PIL's by 0.3 on average and 4 at
            most. Where the version of torch cannot resize bytes so, it is PIL too.

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
        backend: str = 'pillow',
    ):
        whole(1, size=size, token_size=size if token_size is None else token_size)
        if scale is not None:
            span(1, scale=scale)
        span(ratio=ratio)
        one_of(pillow_interp_codes, interpolation=interpolation, token_interpolation=token_interpolation)
        one_of(('pillow', 'torch'), backend=backend)
        self.views = [('patch_view', size, interpolation)]
        if token_size is not None:
            self.views.append(('token_view', token_size, token_interpolation))
        self.scale, self.ratio, self.backend = scale, ratio, backend

    def transform(self, results: dict) -> dict:
        image, color = results['img'], results.pop('color_matrix', None)
        if self.scale:
            top, left, height, width = random_crop(np.random, image.shape[:2], self.scale, self.ratio)
            image = image[top : top + height, left : left + width]
        if image.strides[1] < 0:  # mmcv flips by a view, which numpy copies twenty times as slowly as this
            image = cv2.flip(image[:, ::-1], 1)
        image = np.ascontiguousarray(image)
        for name, side, interpolation in self.views:
            view = resize(image, side, interpolation, self.backend)
            results[name] = view if color is None else cv2.transform(view, color)
        return results


@TRANSFORMS.register_module()
class PackViews(BaseTransform):
    """Views and mask → `inputs` (uint8 RGB [3, H, W] each, bool [h, w]) and a `data_samples` that knows the file and label."""

    def transform(self, results: dict) -> dict:
        if 'color_matrix' in results:
            raise ValueError('nobody has done what ColorJitter drew: put beit_mm.ColorJitter before beit_mm.TwoViews')
        inputs = {
            name: torch.from_numpy(np.stack(cv2.split(results[name])[::-1]))  # faster than to reverse and transpose
            for name in ('patch_view', 'token_view')
            if name in results
        }
        if 'mask' in results:
            inputs['mask'] = torch.from_numpy(results['mask'])
        meta = {key: results[key] for key in ('img_path', 'sample_idx') if key in results}
        if 'gt_label' in results:
            meta['gt_label'] = np.array([results['gt_label']])  # mmpretrain's browse_dataset.py reads an array
        return dict(inputs=inputs, data_samples=BaseDataElement(metainfo=meta))

"""One crop at two resolutions: the patches that the model reads, the image for the tokenizer."""

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
from ..utils.arguments import check_choices, check_integers, check_ranges


def random_crop(
    rng: np.random.RandomState,
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) as torchvision's RandomResizedCrop draws them."""
    height, width = size
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.randint(height - h + 1)), int(rng.randint(width - w + 1)), h, w
    aspect = min(max(width / height, ratio[0]), ratio[1])  # of the largest central crop
    w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    return (height - h) // 2, (width - w) // 2, h, w


def resize_square(
    image: np.ndarray, side: int, interpolation: str, backend: str = 'pillow'
) -> np.ndarray:
    """Resize uint8 [H, W] or [H, W, C] to `side` × `side` with antialiasing, as PIL does."""
    if image.shape[:2] == (side, side):
        return image
    if backend == 'torch' and torch_resizes(interpolation):
        batch = torch.from_numpy(np.atleast_3d(image)).permute(2, 0, 1)[None]
        resized = F.interpolate(batch, size=(side, side), mode=interpolation, antialias=True)
        return cv2.merge(list(resized[0].numpy()))  # ten times faster than a transposed copy

    method = Image.Resampling[interpolation.upper()]
    if image.ndim == 2 or image.shape[2] == 3:
        return np.asarray(Image.fromarray(image).resize((side, side), method))
    return cv2.merge([resize_square(band, side, interpolation) for band in cv2.split(image)])


@cache
def torch_resizes(interpolation: str) -> bool:
    """Return whether this version of torch resizes uint8 with this interpolation."""
    image = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    try:
        F.interpolate(image, size=(2, 2), mode=interpolation, antialias=True)
    except (NotImplementedError, RuntimeError, ValueError):
        return False
    return True


@TRANSFORMS.register_module()
class TwoViews(BaseTransform):
    """Transform that adds `patch_view` and `token_view`: one random crop of `img` at two sizes.

    Args:
        size, token_size: side of the square views in pixels. `token_size=None` makes no token view.
        scale, ratio: as in RandomResizedCrop. `scale=None` takes the whole image, for validation.
        interpolation, token_interpolation: PIL's names.
        backend: 'pillow', or 'torch', which is four times as fast. Its pixels differ from PIL's by
            0.3 levels on average, at most by 4. PIL does the interpolations that torch lacks.
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
        check_integers(1, size=size, token_size=size if token_size is None else token_size)
        if scale is not None:
            check_ranges(1, scale=scale)
        check_ranges(ratio=ratio)
        methods = dict(interpolation=interpolation, token_interpolation=token_interpolation)
        check_choices(pillow_interp_codes, **methods)
        check_choices(('pillow', 'torch'), backend=backend)
        self.views = [('patch_view', size, interpolation)]
        if token_size is not None:
            self.views.append(('token_view', token_size, token_interpolation))
        self.scale, self.ratio, self.backend = scale, ratio, backend

    def transform(self, results: dict) -> dict:
        image, color = results['img'], results.pop('color_matrix', None)
        if image.dtype != np.uint8 or image.ndim not in (2, 3):
            given, expected = f'{image.dtype} of shape {image.shape}', 'uint8 [H, W] or [H, W, C]'
            advice = 'load without to_float32, and normalize in the data preprocessor'
            raise ValueError(f'TwoViews got {given}, expected {expected}: {advice}')
        if self.scale:
            top, left, h, w = random_crop(np.random, image.shape[:2], self.scale, self.ratio)
            image = image[top : top + h, left : left + w]
        if image.strides[1] < 0:  # a flip by mmcv; numpy would copy it twenty times slower
            image = cv2.flip(image[:, ::-1], 1)
        image = np.ascontiguousarray(image)
        for name, side, interpolation in self.views:
            view = resize_square(image, side, interpolation, self.backend)
            results[name] = view if color is None else cv2.transform(view, color)
        return results


def channels_first(view: np.ndarray) -> np.ndarray:
    """Return [H, W] or [H, W, C] as [C, H, W], with three channels reversed from BGR to RGB."""
    planes = cv2.split(view)  # faster than a transposed copy
    return np.stack(planes[::-1] if len(planes) == 3 else planes)


@TRANSFORMS.register_module()
class PackViews(BaseTransform):
    """Transform that packs views (channels first) and mask into `inputs`, the rest into samples."""

    def transform(self, results: dict) -> dict:
        if 'color_matrix' in results:
            raise ValueError('TwoViews applies ColorJitter: move ColorJitter before TwoViews')
        views = [name for name in ('patch_view', 'token_view') if name in results]
        inputs = {name: torch.from_numpy(channels_first(results[name])) for name in views}
        if 'mask' in results:
            inputs['mask'] = torch.from_numpy(results['mask'])
        meta = {key: results[key] for key in ('img_path', 'sample_idx') if key in results}
        if 'gt_label' in results:
            meta['gt_label'] = np.array([results['gt_label']])  # as browse_dataset.py expects it
        return dict(inputs=inputs, data_samples=BaseDataElement(metainfo=meta))

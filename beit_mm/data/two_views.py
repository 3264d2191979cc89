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
from ..utils.arguments import check_choices, check_integers, check_ranges


def random_crop(
    rng: np.random.RandomState,
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
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
    """Resize uint8 [H, W] or [H, W, C] to `side` × `side`, antialiased, by PIL's rules. An image of that size is not copied."""
    if image.shape[:2] == (side, side):
        return image
    if backend == 'torch' and torch_resizes(interpolation):
        planes = torch.from_numpy(image if image.ndim == 3 else image[..., None]).permute(2, 0, 1)[
            None
        ]
        found = F.interpolate(planes, size=(side, side), mode=interpolation, antialias=True)
        return cv2.merge(list(found[0].numpy()))  # channels last, in a tenth of numpy's time
    method = Image.Resampling[interpolation.upper()]
    if image.ndim == 2 or image.shape[2] == 3:
        return np.asarray(Image.fromarray(image).resize((side, side), method))
    return cv2.merge(
        [
            np.asarray(Image.fromarray(band).resize((side, side), method))
            for band in cv2.split(image)
        ]
    )


@cache
def torch_resizes(interpolation: str) -> bool:
    """Whether this version of torch resizes bytes so."""
    try:
        F.interpolate(
            torch.zeros(1, 3, 4, 4, dtype=torch.uint8),
            size=(2, 2),
            mode=interpolation,
            antialias=True,
        )
    except (NotImplementedError, RuntimeError, ValueError):
        return False
    return True


@TRANSFORMS.register_module()
class TwoViews(BaseTransform):
    """Adds `patch_view` and `token_view`: one crop of `img` at two sizes, resized as PIL does (antialiased).

    All are uint8 [H, W] or [H, W, C].
    What `ColorJitter` drew is applied to the views.

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
        check_integers(1, size=size, token_size=size if token_size is None else token_size)
        if scale is not None:
            check_ranges(1, scale=scale)
        check_ranges(ratio=ratio)
        check_choices(
            pillow_interp_codes,
            interpolation=interpolation,
            token_interpolation=token_interpolation,
        )
        check_choices(('pillow', 'torch'), backend=backend)
        self.views = [('patch_view', size, interpolation)]
        if token_size is not None:
            self.views.append(('token_view', token_size, token_interpolation))
        self.scale, self.ratio, self.backend = scale, ratio, backend

    def transform(self, results: dict) -> dict:
        image, color = results['img'], results.pop('color_matrix', None)
        if image.dtype != np.uint8 or image.ndim not in (2, 3):
            raise ValueError(
                f'TwoViews was given {image.dtype} of shape {image.shape}, expected uint8 [H, W] or [H, W, channels], 0 … 255: '
                'read images without to_float32, and normalize in the data preprocessor'
            )
        if self.scale:
            top, left, height, width = random_crop(
                np.random, image.shape[:2], self.scale, self.ratio
            )
            image = image[top : top + height, left : left + width]
        if (
            image.strides[1] < 0
        ):  # mmcv flips by a view, which numpy copies twenty times as slowly as this
            image = cv2.flip(image[:, ::-1], 1)
        image = np.ascontiguousarray(image)
        for name, side, interpolation in self.views:
            view = resize(image, side, interpolation, self.backend)
            results[name] = view if color is None else cv2.transform(view, color)
        return results


def channels_first(view: np.ndarray) -> np.ndarray:
    """Return uint8 [C, H, W] of [H, W] or [H, W, C]; three channels are turned from BGR to RGB."""
    planes = cv2.split(view)
    return np.stack(
        planes[::-1] if len(planes) == 3 else planes
    )  # faster than to reverse and transpose


@TRANSFORMS.register_module()
class PackViews(BaseTransform):
    """Packs views and mask into `inputs` (uint8 [C, H, W] each, RGB if C is 3; bool [h, w]), file and label into `data_samples`."""

    def transform(self, results: dict) -> dict:
        if 'color_matrix' in results:
            raise ValueError(
                'nobody has done what ColorJitter drew: put beit_mm.ColorJitter before beit_mm.TwoViews'
            )
        inputs = {
            name: torch.from_numpy(channels_first(results[name]))
            for name in ('patch_view', 'token_view')
            if name in results
        }
        if 'mask' in results:
            inputs['mask'] = torch.from_numpy(results['mask'])
        meta = {key: results[key] for key in ('img_path', 'sample_idx') if key in results}
        if 'gt_label' in results:
            meta['gt_label'] = np.array(
                [results['gt_label']]
            )  # mmpretrain's browse_dataset.py reads an array
        return dict(inputs=inputs, data_samples=BaseDataElement(metainfo=meta))

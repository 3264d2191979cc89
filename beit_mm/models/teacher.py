"""Teachers: frozen backbones whose patch features a tokenizer learns to reconstruct.

Shapes: B images [B, C, H, W], N = h·w patches of a grid (h, w), D channels of features.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import MODELS, WEIGHT_INITIALIZERS
from ..utils.arguments import as_pair, check_integers, check_mean_and_std, check_sizes
from .relative_position import Grid


@MODELS.register_module()
class Teacher:
    """Frozen backbone that returns patch features [B, D, h, w] at the grid of a tokenizer.

    It is no submodule, so checkpoints do not contain it. A config builds without its weights;
    training without them stops with FileNotFoundError.

    Args:
        backbone: config of a backbone of beit_mm, mmpretrain or timm (`mmpretrain.TIMMBackbone`).
            Its last output is a map [B, D, h, w], or a sequence [B, L, D] that ends with the
            patches.
        checkpoint: weights of the backbone: a file, a folder, a URL or `hf://ORG/NAME`.
        channels: number of channels, D, after the projection.
        mean, std: of its images, one number per channel on the scale 0 … 255, RGB.
        projection: key in the checkpoint of a weight [D, C], a linear layer that follows the
            backbone at each patch, as in CLIP.
        img_size: size to which images are resized, bicubic; None keeps their size.
    """

    def __init__(
        self,
        backbone: dict,
        channels: int,
        mean: Sequence[float],
        std: Sequence[float],
        checkpoint: str | None = None,
        projection: str | None = None,
        img_size: int | Sequence[int] | None = None,
    ):
        check_integers(1, channels=channels)
        check_mean_and_std(mean, std)
        if img_size is not None:
            check_sizes(1, img_size=img_size)
        self.checkpoint, self.projection, self.channels = checkpoint, projection, channels
        self.img_size = None if img_size is None else as_pair(img_size)
        tensors = (torch.tensor(each, dtype=torch.double) for each in (mean, std))
        self.mean, self.std = (tensor.view(-1, 1, 1) for tensor in tensors)
        # May lack its weights, which the property `network` loads.
        self.module = MODELS.build(backbone)
        self.module.eval()  # mmpretrain's backbones return None here
        self.module.requires_grad_(False)
        self.weight: Tensor | None = None  # of the projection
        self.has_weights = False

    @property
    def network(self) -> nn.Module:
        """The trained backbone; its weights are loaded at the first use."""
        if self.has_weights:
            return self.module
        if self.checkpoint is None:
            name = type(getattr(self.module, 'timm_model', self.module)).__name__
            raise FileNotFoundError(
                f'the teacher ({name}) has no weights, and an untrained teacher teaches nothing: '
                'set model.teacher.checkpoint. docs/tokenizers.md lists where the weights of '
                'teachers come from'
            )
        load = WEIGHT_INITIALIZERS.get('load_teacher')
        self.weight = load(self.module, self.checkpoint, self.projection)
        self.has_weights = True
        return self.module

    @torch.no_grad()
    def __call__(self, images: Tensor, grid: Grid) -> Tensor:
        """Return features [B, D, h, w] of images in [0, 1], resized to the grid if needed."""
        network = self.network
        if self.mean.device != images.device:  # the host waits for each copy
            self._move(images.device)
        if self.img_size:
            images = F.interpolate(images, self.img_size, mode='bicubic', antialias=True)
        mean, std = self.mean.to(images.dtype), self.std.to(images.dtype)
        features = network((255 * images - mean) / std)
        features = features[-1] if isinstance(features, list | tuple) else features
        features = to_map(features, images.shape[-2:])
        if self.weight is not None:
            weight = self.weight.to(features.dtype)
            features = F.linear(features.movedim(1, -1), weight).movedim(-1, 1)
        if features.shape[1] != self.channels:
            raise ValueError(
                f'the teacher returns {features.shape[1]} channels, model.teacher.channels is '
                f'{self.channels}: set {features.shape[1]}'
            )
        if features.shape[-2:] != grid:
            features = F.interpolate(features, grid, mode='bilinear', align_corners=False)
        return features

    def _move(self, device: torch.device) -> None:
        self.module.to(device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        self.weight = None if self.weight is None else self.weight.to(device)

    def check(self, size: tuple[int, int], grid: Grid) -> None:
        """Load the weights and try an image of `size`; ValueError if the features do not fit."""
        parameter = next(self.network.parameters())
        image = torch.zeros(1, len(self.mean), *size, device=parameter.device)
        self(image.to(parameter.dtype), grid)


def to_map(features: Tensor, size: Sequence[int]) -> Tensor:
    """Return features of images of `size` (height, width) as a map [B, D, h, w].

    A sequence [B, L, D] starts with the tokens that the largest grid in the proportions of the
    images leaves over: [CLS], registers. Raises ValueError if there is no grid.
    """
    if features.ndim == 4 and features.shape[-2:] != (1, 1):
        return features
    if features.ndim == 3:
        divisor = math.gcd(*size)
        height, width = (side // divisor for side in size)
        side = math.isqrt(features.shape[1] // (height * width))
        if side * height * side * width > 1:
            patches = features[:, -side * height * side * width :]
            return patches.transpose(1, 2).unflatten(-1, (side * height, side * width))
    raise ValueError(
        f'the teacher returns features of shape {tuple(features.shape)} for images of '
        f'{size[0]}×{size[1]} pixels, which cannot be resized to the grid of the tokenizer: '
        "expected a map [B, D, h, w] or a sequence [B, L, D]; set out_type='featmap' or 'raw' of a "
        'vision transformer, or another out_indices'
    )

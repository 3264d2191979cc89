"""The interface of tokenizers: models that map images to visual tokens.

Shapes: B images [B, C, H, W] in [0, 1], ids int64 [B, h, w] with h = H / stride.
"""

import hashlib
from collections.abc import Iterable

import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor

from ..registry import WEIGHT_INITIALIZERS
from ..utils.arguments import check_choices, pretrained_checkpoint
from .embeddings import grid_of
from .tracing import can_read_values


class Tokenizer(BaseModel):
    """Base class of tokenizers; docs/tokenizers.md shows one.

    Subclasses set `vocab_size` (number of codes) and `stride` (pixels per token) and implement
    `tokens`. To train one in a Runner, implement `loss` as well.
    """

    vocab_size: int
    stride: int
    in_channels = 3

    def tokens(self, images: Tensor) -> Tensor:
        """Return ids int64 [B, h, w] of images; `check_images` checks these.

        `TokenTarget.dtype` calls it under autocast in half precision. Compute the scores of the
        codes in float32: rounding creates ties between codes.
        """
        raise NotImplementedError

    def loss(self, images: Tensor, data_samples: list | None = None) -> dict[str, Tensor]:
        raise NotImplementedError

    @torch.no_grad()
    def predict(self, images: Tensor, data_samples: list | None = None) -> list[BaseDataElement]:
        """Return one sample per image with its `ids` [h, w]."""
        return add_fields(data_samples, dict(ids=self.tokens(images)))

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor'):
        modes = dict(loss=self.loss, predict=self.predict)
        check_choices([*modes, 'tensor'], mode=mode)
        return modes[mode](inputs, data_samples) if mode in modes else self.tokens(inputs)

    def match(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return ids [B, h, w], and how well each patch fits its code [B, h, w], 0 if unknown."""
        ids = self.tokens(images)
        return ids, torch.zeros(ids.shape, device=ids.device)

    @property
    def can_decode(self) -> bool:
        """Whether `decode(ids)` returns images [B, C, H, W] in [0, 1]."""
        return False

    def token_tensors(self) -> Iterable[Tensor]:
        """Return the tensors that ids depend on."""
        return self.state_dict().values()

    def fingerprint(self) -> int:
        """Return 63 bits of the SHA-256 of `token_tensors`, to identify the tokenizer."""
        digest = hashlib.sha256()
        for tensor in self.token_tensors():
            digest.update(tensor.detach().cpu().float().numpy().tobytes())
        return int.from_bytes(digest.digest()[:8], 'big') >> 1

    def init_weights(self) -> None:
        """Initialize all parameters, then load the checkpoint of `init_cfg`."""
        source = pretrained_checkpoint(self.init_cfg, type(self).__name__)
        self.reset_parameters()
        if source is not None:
            WEIGHT_INITIALIZERS.get('load_tokenizer')(self, source)
        self._is_init = True

    def reset_parameters(self) -> None:
        """Draw new initial weights. The default keeps those of the constructor."""


def check_images(images: Tensor, stride: int) -> None:
    """Raise ValueError unless images have sides that `stride` divides, and values in [0, 1].

    Values are checked on a CPU only, because a GPU would have to wait.
    """
    grid_of(images.shape, stride, 'stride')
    is_readable = can_read_values(images)
    if not images.is_floating_point() or (is_readable and not _are_in_unit_range(images)):
        raise ValueError(
            f'images are {images.dtype}, {images.min():.3g} … {images.max():.3g}: expected '
            'float in [0, 1]; divide pixels by 255, and do not normalize them'
        )


def add_fields(
    samples: list[BaseDataElement] | None, fields: dict[str, Tensor]
) -> list[BaseDataElement]:
    """Add batches of values to the samples of a batch, or to new ones."""
    count = len(next(iter(fields.values())))
    samples = samples or [BaseDataElement() for _ in range(count)]
    for i, sample in enumerate(samples):
        sample.set_data({name: values[i] for name, values in fields.items()})
    return samples


def _are_in_unit_range(images: Tensor) -> bool:
    low, high = images.aminmax()
    return bool(low >= 0) and bool(high <= 1)  # False for NaN

"""What the tools to look inside take: a checkpoint that builds its own model, and an image file at a size that it can read."""

from functools import partial
from pathlib import Path

import mmcv
import numpy as np
import torch
from torch import Tensor, nn

from ..checkpoint import read_checkpoint
from ..checkpoint.files import read_file
from ..checkpoint.fit import check_fit
from ..checkpoint.model_spec import ModelSpec, infer_spec
from ..checkpoint.published import NORMALIZATIONS
from ..checkpoint.state_dicts import find_weights
from ..data.reading import BadSample, decode_bands, decode_image, read_bytes
from ..models import BEiT, DiscreteVAE, TokenTarget
from ..models.relative_position import Grid

PUBLISHED = NORMALIZATIONS['half']  # of most published weights


class Weights:
    """A checkpoint of any origin: `state` under our names, its `facts`, and how its images were normalised (0 … 255, RGB)."""

    def __init__(self, source: str):
        self.source = source
        checkpoint = read_checkpoint(source)
        self.state, self.origin, meta = checkpoint.state, checkpoint.origin, checkpoint.meta
        self.facts: ModelSpec = infer_spec(self.state, meta.get('num_heads'))
        other = (
            NORMALIZATIONS['imagenet']
            if self.facts.kind == 'segmentor' and self.origin != 'hf'
            else PUBLISHED
        )
        if 'normalization' not in meta and self.facts.in_channels != 3:
            other = {
                name: values[:1] * self.facts.in_channels for name, values in PUBLISHED.items()
            }
        self.normalization: dict[str, list[float]] = meta.get('normalization', other)

    def part(self, prefix: str) -> dict[str, Tensor]:
        return {
            key.removeprefix(prefix): value
            for key, value in self.state.items()
            if key.startswith(prefix)
        }

    def need(self, *kinds: str) -> None:
        """ValueError where the checkpoint is none of these kinds (`facts.Facts`)."""
        if self.facts.kind not in kinds:
            raise ValueError(
                f'{self.source} holds a {self.facts.kind}, needed is a {" or ".join(kinds)}'
            )

    def backbone(self, heads: int | None = None) -> BEiT:
        """The backbone, to its last block. `heads`: how many, where no relative position tells it."""
        self.need('backbone', 'mim', 'classifier', 'segmentor')
        settings = self.facts.backbone_settings() | dict(out_indices=-1)
        if heads:
            settings['arch'] = settings['arch'] | dict(num_heads=heads)
        return _loaded(BEiT(**settings), self.part('backbone.'), self.source, 'BEiT')

    def mim_head(self) -> nn.Linear:
        """The map from features to codes."""
        self.need('mim')
        state = self.part('head.proj.')
        return _loaded(nn.Linear(*reversed(state['weight'].shape)), state, self.source, 'head')

    def tokenizer(self) -> DiscreteVAE:
        """Both halves of the tokenizer."""
        self.need('tokenizer')
        if 'decoder.input.weight' not in self.state:
            raise ValueError(
                f'{self.source} is an encoder alone, which has ids and no pictures: give both halves'
            )
        return _loaded(
            DiscreteVAE(**self._tokenizer_settings()), self.state, self.source, 'tokenizer'
        )

    def token_target(self) -> TokenTarget:
        """The tokenizer as pre-training takes it: it knows its fingerprint."""
        self.need('tokenizer')
        return TokenTarget(
            dict(type='beit_mm.DiscreteVAE', **self._tokenizer_settings()), self.source
        )

    def _tokenizer_settings(self) -> dict[str, int]:
        keys = [key.split('.') for key in self.state if key.startswith('encoder.group_')]
        return dict(
            vocab_size=self.facts.classes,
            width=len(self.state['encoder.input.weight']),
            groups=max(int(key[1].removeprefix('group_')) for key in keys),
            blocks=max(
                int(key[2].removeprefix('block_')) for key in keys if key[2].startswith('block_')
            ),
            width_in=len(self.state['decoder.input.weight']),
            in_channels=self.facts.in_channels,
        )

    def learned_fingerprint(self) -> int:
        """Of the tokenizer whose tokens a pre-training of this project learned; 0 where the file does not say."""
        return int(
            find_weights(read_file(self.source), self.source)[0].get('target_fingerprint', 0)
        )


def _loaded(model: nn.Module, state: dict[str, Tensor], source: str, what: str) -> nn.Module:
    check_fit(model, state, source)
    model.load_state_dict(state, strict=False)
    return model.eval()


# -- images ------------------------------------------------------------------------------------------------------------


def read_image(path: str | Path, channels: int = 3) -> np.ndarray:
    """Read an image file for a model of so many channels: uint8 [H, W, channels], RGB if there are three.

    Raises BadSample, a ValueError that names the file, also for another number of channels.
    """
    decode = decode_image if channels == 3 else decode_bands
    image = decode(str(path), read_bytes(str(path)))[0]
    image = image[..., None] if image.ndim == 2 else image
    if image.shape[2] != channels:
        raise BadSample(f'{path} has {image.shape[2]} channels, the model reads {channels}')
    return np.ascontiguousarray(image[..., ::-1] if channels == 3 else image)


def shown(image: np.ndarray, bands: list[int] | None = None) -> np.ndarray:
    """Return what is drawn of an image [H, W, C]: uint8 RGB [H, W, 3].

    `bands`: three channels, counted from 1, for red, green and blue; by default the first three, or the only one as gray.
    Raises ValueError for bands that the image does not have.
    """
    channels = image.shape[2]
    chosen = bands or ([1, 2, 3] if channels >= 3 else [1, 1, 1])
    if len(chosen) != 3 or not all(1 <= band <= channels for band in chosen):
        raise ValueError(
            f'--bands {" ".join(map(str, chosen))}: expected three numbers, 1 … {channels}'
        )
    return np.ascontiguousarray(image[..., [band - 1 for band in chosen]])


def fitting_size(size: tuple[int, int], short: int, multiple: int) -> tuple[int, int]:
    """(height, width) with the shorter side about `short` and about the same shape, both multiples of `multiple`."""
    scale = short / min(size)
    return tuple(max(round(side * scale / multiple), 1) * multiple for side in size)


def resized(image: np.ndarray, size: tuple[int, int], interpolation: str = 'bicubic') -> np.ndarray:
    """Resize an image [H, W, C] to `size` (height, width), as PIL does, channel by channel."""
    if image.shape[:2] == tuple(size):
        return image
    bands = (np.ascontiguousarray(image[..., band]) for band in range(image.shape[2]))
    resize = partial(
        mmcv.imresize, size=tuple(size)[::-1], interpolation=interpolation, backend='pillow'
    )
    return np.stack([resize(band) for band in bands], -1)


def normalised(image: np.ndarray, normalization: dict[str, list[float]]) -> Tensor:
    """Normalize uint8 [H, W, C] to f32 [1, C, H, W] as a backbone takes it."""
    mean, std = (torch.tensor(normalization[name]).view(-1, 1, 1) for name in ('mean', 'std'))
    return ((to_tensor(image) - mean) / std)[None]


def to_tensor(image: np.ndarray) -> Tensor:
    """uint8 [H, W, C] → f32 [C, H, W], 0 … 255."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()


def words(path: str | Path, image: np.ndarray, size: tuple[int, int], grid: Grid) -> str:
    """How an image was made to fit, for people."""
    (height, width), (h, w) = image.shape[:2], size
    fate = 'read as it is' if (h, w) == (height, width) else f'resized to {w}×{h}'
    return f'{Path(path).name}: {width}×{height} pixels, {fate}, {grid[1]}×{grid[0]} patches'

"""What masked image modeling sees in hidden patches: its likeliest tokens, drawn by the tokenizer's decoder."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..data.blockwise_mask import blockwise_mask
from ..models import BEiT, DiscreteVAE
from . import draw
from .inputs import normalised, resized, shown, to_tensor

LEAST_BLOCK = 16 / 196  # of the grid, as the paper's 16 patches are


class Filled(NamedTuple):
    """Of an image and M masks, ids int64 of a grid (h, w)."""

    masks: np.ndarray  # bool [M, h, w], True where hidden
    true: Tensor  # [h, w]
    guessed: Tensor  # [M, h, w]: the true ones where visible, the likeliest where hidden

    def right(self, mask: int) -> float:
        """The share of the hidden tokens that were guessed; 0 where none is hidden."""
        hidden = torch.from_numpy(self.masks[mask])
        return (self.guessed[mask] == self.true)[hidden].float().sum().item() / max(
            hidden.sum().item(), 1
        )


@torch.no_grad()
def fill(
    backbone: BEiT, head: nn.Module, patch_view: Tensor, true: Tensor, masks: np.ndarray
) -> Filled:
    """Guess hidden tokens. `patch_view` f32 [1, 3, H, W] as the backbone takes it, `true` ids [h, w], `masks` bool [M, h, w]."""
    hidden = torch.from_numpy(masks)
    features = backbone(patch_view.expand(len(masks), -1, -1, -1), hidden)[0][:, 1:]
    guessed = head(features).argmax(-1).view(hidden.shape)
    return Filled(masks, true, torch.where(hidden, guessed, true))


def filled(true: Tensor, samples: list) -> Tensor:
    """Ids int64 [B, h, w] with what `BEiTPretrainer.predict` guessed (`samples`) in the hidden places."""
    guessed = true.flatten(1).clone()
    for row, sample in zip(guessed, samples, strict=True):
        row[sample.patch_ids[sample.hidden]] = sample.prediction[sample.hidden]
    return guessed.view_as(true)


def masks_of(ratios: list[float], count: int, grid: tuple[int, int], seed: int = 0) -> np.ndarray:
    """`count` blockwise masks a ratio, the ratios in order: bool [ratios · count, h, w]. ValueError for a ratio outside (0, 1)."""
    if wrong := [ratio for ratio in ratios if not 0 < ratio < 1]:
        raise ValueError(f'a ratio of hidden patches lies between 0 and 1, given was {wrong[0]:g}')
    patches = grid[0] * grid[1]
    rng, block = np.random.default_rng(seed), max(round(LEAST_BLOCK * patches), 1)
    budgets = [max(round(ratio * patches), 1) for ratio in ratios for _ in range(count)]
    return np.stack([blockwise_mask(rng, grid, budget, min(block, budget)) for budget in budgets])


def table(
    backbone: BEiT,
    head: nn.Module,
    tokenizer: DiscreteVAE,
    image: np.ndarray,
    masks: np.ndarray,
    normalization: dict,
    bands: list[int] | None = None,
) -> str:
    """Draw the image uint8 [H, W, C] under each mask side by side, and below what was guessed; of `bands` as `shown` takes them.

    The whole image is squeezed into the size that positions were learned for, as in validation.
    """
    side, stride = backbone.patch_size, tokenizer.stride
    views = [resized(image, tuple(n * size for n in backbone.grid), kind)
             for size, kind in ((side, 'bicubic'), (stride, 'lanczos'))]  # fmt: skip
    true = tokenizer.tokens(to_tensor(views[1])[None] / 255)[0]
    found = fill(backbone, head, normalised(views[0], normalization), true, masks)
    drawn = [
        shown(draw.to_uint8(each.numpy()), bands)
        for each in _decode(tokenizer, torch.cat([true[None], found.guessed]))
    ]
    drawn[1:] = map(draw.outline_hidden, drawn[1:], masks)
    columns = ['image; its tokens']
    columns += [
        f'{mask.mean():.0%} hidden; {found.right(i):.0%} right' for i, mask in enumerate(masks)
    ]
    visible = shown(views[0], bands)
    seen = [visible, *(draw.hide(visible, mask) for mask in masks)]
    return draw.picture_table(columns, [seen, drawn])


@torch.no_grad()
def _decode(tokenizer: DiscreteVAE, ids: Tensor) -> Tensor:
    return tokenizer.decode(ids)

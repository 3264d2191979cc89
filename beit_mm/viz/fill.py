"""Filled-in images: masked tokens replaced by the model's most likely ones, then decoded."""

import numpy as np
import torch
from torch import Tensor, nn

from ..data.blockwise_mask import blockwise_mask
from ..models import BEiT, Tokenizer
from .images import gray_out, outline_masked, to_uint8
from .inputs import normalize, resize, to_rgb, to_tensor
from .tokens import color_tokens

MIN_BLOCK_SHARE = 16 / 196  # of the patches, as in the paper


@torch.no_grad()
def fill_in(
    backbone: BEiT, head: nn.Module, patch_view: Tensor, ids: Tensor, mask: Tensor
) -> Tensor:
    """Return token ids [B, h, w] with the most likely id at each masked position.

    `patch_view` is normalized, f32 [B, C, H, W]; `ids` is int64 and `mask` bool, [B, h, w]. Visible
    positions keep their ids.
    """
    features = backbone(patch_view, mask)[0][:, 1:]
    return torch.where(mask, head(features).argmax(-1).view_as(mask), ids)


def make_masks(ratios: list[float], count: int, grid: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Draw `count` blockwise masks per ratio: bool [ratios · count, h, w], in the ratios' order.

    Raises ValueError for a ratio outside (0, 1).
    """
    patches = grid[0] * grid[1]
    rng = np.random.default_rng(seed)
    masks = []
    for ratio in ratios:
        if not 0 < ratio < 1:
            raise ValueError(f'--ratios {ratio:g}: expected shares between 0 and 1, such as 0.4')
        num_masked = max(round(ratio * patches), 1)
        min_block = min(max(round(MIN_BLOCK_SHARE * patches), 1), num_masked)
        masks += [blockwise_mask(rng, grid, num_masked, min_block) for _ in range(count)]
    return np.stack(masks)


@torch.no_grad()
def draw_tokens(
    tokenizer: Tokenizer, ids: Tensor, size: tuple[int, int], bands: list[int] | None = None
) -> list[np.ndarray]:
    """Draw ids [B, h, w] as decoded images, or in colors if the tokenizer cannot decode them."""
    if not tokenizer.can_decode:
        return [color_tokens(each, tokenizer.vocab_size, size) for each in ids.cpu().numpy()]
    device = next(tokenizer.parameters()).device
    decoded = tokenizer.decode(ids.to(device)).cpu()
    return [to_rgb(to_uint8(picture.numpy()), bands) for picture in decoded]


@torch.no_grad()
def draw_filled(
    backbone: BEiT,
    head: nn.Module,
    tokenizer: Tokenizer,
    image: np.ndarray,
    masks: np.ndarray,
    normalization: dict,
    bands: list[int] | None = None,
) -> tuple[list[str], list[list[np.ndarray]]]:
    """Draw an image uint8 [H, W, C] under masks bool [M, h, w]: column heads and two rows.

    The upper row is the input, the lower one the decoded tokens, or the tokens in colors if the
    tokenizer cannot decode them; the first column has no mask. The image is resized to the size
    that positions were learned for, as in validation.
    """
    patch_view = resize(image, tuple(side * backbone.patch_size for side in backbone.grid))
    token_view = resize(image, tuple(side * tokenizer.stride for side in backbone.grid), 'lanczos')
    ids = tokenizer.tokens(to_tensor(token_view)[None] / 255)
    shape = len(masks), -1, -1
    inputs = normalize(patch_view, normalization).expand(*shape, -1)
    filled = fill_in(backbone, head, inputs, ids.expand(shape), torch.from_numpy(masks))

    visible = to_rgb(patch_view, bands)
    lower = draw_tokens(tokenizer, torch.cat([ids, filled]), token_view.shape[:2], bands)
    columns, upper = ['image; its tokens'], [visible]
    for i, mask in enumerate(masks):
        correct = (filled[i] == ids[0]).numpy()[mask].mean()
        columns.append(f'{mask.mean():.0%} masked; {correct:.0%} correct')
        upper.append(gray_out(visible, mask))
        lower[i + 1] = outline_masked(lower[i + 1], mask)
    return columns, [upper, lower]

"""Filled-in images: masked tokens replaced by the model's most likely ones, then decoded."""

import numpy as np
import torch
from torch import Tensor, nn

from ..data.blockwise_mask import blockwise_mask
from ..models import BEiT, Tokenizer
from .images import gray_out, magnify, outline_masked, to_uint8
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
) -> list[tuple[np.ndarray, np.ndarray, str]]:
    """Draw an image uint8 [H, W, C] under masks bool [M, h, w]: pairs of pictures with a caption.

    The first pair is the image and its decoded tokens. In the others masked patches are gray, and
    filled in by the model. A tokenizer that cannot decode has tokens in colors. The image is
    resized to the patches of the masks; small pictures are magnified.
    """
    sides = np.array(masks.shape[1:])
    patch_view = resize(image, tuple(sides * backbone.patch_size))
    token_view = resize(image, tuple(sides * tokenizer.stride), 'lanczos')
    ids = tokenizer.tokens(to_tensor(token_view)[None] / 255)
    shape = len(masks), -1, -1
    inputs = normalize(patch_view, normalization).expand(*shape, -1)
    filled = fill_in(backbone, head, inputs, ids.expand(shape), torch.from_numpy(masks))

    visible = to_rgb(patch_view, bands)
    drawn = draw_tokens(tokenizer, torch.cat([ids, filled]), visible.shape[:2], bands)
    original, *decoded = [magnify(resize(each, visible.shape[:2])) for each in drawn]
    pairs = [(magnify(visible), original, 'the image, and its tokens')]
    for mask, picture, found in zip(masks, decoded, filled.numpy(), strict=True):
        true = ids[0].numpy()[mask]
        correct, frequent = (found[mask] == true).mean(), np.bincount(true).max() / true.size
        caption = f'{mask.mean():.0%} masked: {correct:.0%} of the tokens correct'
        caption += f' (the most frequent token: {frequent:.0%})'
        hidden = outline_masked(magnify(gray_out(visible, mask)), mask)
        pairs.append((hidden, outline_masked(picture, mask), caption))
    return pairs

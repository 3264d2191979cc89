"""Pages about a tokenizer: token maps, reconstructions, and the usage of its codes."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import hsv_to_rgb

from ..models import Tokenizer
from ..models.dvae_losses import psnr
from ..models.histogram import perplexity
from .images import enlarge, to_uint8
from .inputs import to_rgb, to_tensor
from .pages import write_page

SHOWN_CODES = 24
PATCHES_PER_ROW = 3  # of the square that shows a code


def code_colors(vocab_size: int) -> np.ndarray:
    """Return a color per code, uint8 RGB [K, 3]; neighboring numbers get distant colors."""
    code = np.arange(vocab_size)
    hue = code * 0.61803398875 % 1
    saturation = 0.45 + 0.5 * (code % 3) / 2
    value = 0.95 - 0.4 * (code % 5) / 4
    return (hsv_to_rgb(np.stack([hue, saturation, value], 1)) * 255).round().astype(np.uint8)


def color_tokens(ids: np.ndarray, vocab_size: int, size: tuple[int, int]) -> np.ndarray:
    """Draw ids [h, w] in their colors, as an image of `size` (height, width)."""
    return enlarge(code_colors(vocab_size)[ids], size)


def draw_code(
    code: int,
    images: list[np.ndarray],
    ids: list[np.ndarray],
    fits: list[np.ndarray],
    stride: int,
) -> np.ndarray:
    """Draw the patches whose token is `code` in a square with gray lines between them.

    The patches with the largest `fits` [h, w] come first, and equal ones in their order.
    """
    found = []
    for image, image_ids, image_fits in zip(images, ids, fits, strict=True):
        for row, column in np.argwhere(image_ids == code):
            top, left = stride * row, stride * column
            patch = image[top : top + stride, left : left + stride]
            found.append((image_fits[row, column], patch))
    patches = [patch for _, patch in sorted(found, key=lambda pair: -pair[0])]
    cell = stride + 1  # with its line
    sheet = np.full((PATCHES_PER_ROW * cell, PATCHES_PER_ROW * cell, 3), 128, np.uint8)
    for i, patch in enumerate(patches[: PATCHES_PER_ROW**2]):
        top, left = i // PATCHES_PER_ROW * cell, i % PATCHES_PER_ROW * cell
        sheet[top : top + stride, left : left + stride] = patch
    return sheet[:-1, :-1]


@torch.no_grad()
def write_tokens(
    path: Path,
    tokenizer: Tokenizer,
    images: dict[str, np.ndarray],
    bands: list[int] | None = None,
) -> None:
    """Write a page about images: path → uint8 [H, W, C], with sides that the stride divides."""
    shown, all_ids, all_fits, originals = [], [], [], []
    for name, image in images.items():
        pixels = to_tensor(image)[None] / 255
        ids, fits = tokenizer.match(pixels)
        originals.append(to_rgb(image, bands))
        all_ids.append(ids[0].numpy())
        all_fits.append(fits[0].numpy())
        height, width = ids.shape[1:]
        caption = f'{Path(name).name}: {width}×{height} tokens'
        pictures = [
            originals[-1],
            color_tokens(all_ids[-1], tokenizer.vocab_size, image.shape[:2]),
        ]
        if tokenizer.can_decode:
            decoded = tokenizer.decode(ids)
            caption += f', PSNR {psnr(decoded, pixels).item():.1f} dB'
            pictures.append(to_rgb(to_uint8(decoded[0].numpy()), bands))
        shown.append(dict(caption=caption, pictures=pictures))

    tokens = np.concatenate([ids.ravel() for ids in all_ids])
    counts = np.bincount(tokens, minlength=tokenizer.vocab_size)
    percent = 100 * counts / len(tokens)
    order = np.argsort(-counts, kind='stable')[: (counts > 0).sum()]
    frequent = order[:SHOWN_CODES]
    effective = perplexity(torch.from_numpy(counts).double())
    used = f'{len(order)} of {tokenizer.vocab_size} codes in {len(tokens)} tokens'
    write_page(
        path,
        'tokens.html',
        title='What the tokenizer keeps',
        images=shown,
        columns=['image', 'tokens', 'reconstruction'][: 3 if tokenizer.can_decode else 2],
        usage=f'{used}, perplexity {effective:.0f}.',
        shares=list(enumerate(percent[order], 1)),
        uniform_share=100 / tokenizer.vocab_size,
        examples_per_code=PATCHES_PER_ROW**2,
        examples=[draw_code(c, originals, all_ids, all_fits, tokenizer.stride) for c in frequent],
        example_captions=[f'{code}: {percent[code]:.2g} %' for code in frequent],
    )

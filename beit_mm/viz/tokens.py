"""Pages about a tokenizer: token maps, reconstructions, and the usage of its codes."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import hsv_to_rgb

from ..models import DiscreteVAE
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


def draw_code(
    code: int, images: list[np.ndarray], ids: list[np.ndarray], stride: int
) -> np.ndarray:
    """Draw the first patches whose token is `code` in a square with gray lines between them."""
    patches = []
    for image, image_ids in zip(images, ids, strict=True):
        for row, column in stride * np.argwhere(image_ids == code):
            patches.append(image[row : row + stride, column : column + stride])
    cell = stride + 1  # with its line
    sheet = np.full((PATCHES_PER_ROW * cell, PATCHES_PER_ROW * cell, 3), 128, np.uint8)
    for i, patch in enumerate(patches[: PATCHES_PER_ROW**2]):
        top, left = i // PATCHES_PER_ROW * cell, i % PATCHES_PER_ROW * cell
        sheet[top : top + stride, left : left + stride] = patch
    return sheet[:-1, :-1]


@torch.no_grad()
def write_tokens(
    path: Path,
    tokenizer: DiscreteVAE,
    images: dict[str, np.ndarray],
    bands: list[int] | None = None,
) -> None:
    """Write a page about images: path → uint8 [H, W, C], with sides that the stride divides."""
    palette = code_colors(tokenizer.vocab_size)
    shown, all_ids, originals = [], [], []
    for name, image in images.items():
        pixels = to_tensor(image)[None] / 255
        ids = tokenizer.tokens(pixels)
        decoded = tokenizer.decode(ids)
        originals.append(to_rgb(image, bands))
        all_ids.append(ids[0].numpy())
        height, width = ids.shape[1:]
        quality = f'PSNR {psnr(decoded, pixels).item():.1f} dB'
        colored = enlarge(palette[all_ids[-1]], image.shape[:2])
        reconstruction = to_rgb(to_uint8(decoded[0].numpy()), bands)
        shown.append(
            dict(
                caption=f'{Path(name).name}: {width}×{height} tokens, {quality}',
                pictures=[originals[-1], colored, reconstruction],
            )
        )

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
        usage=f'{used}, perplexity {effective:.0f}.',
        shares=list(enumerate(percent[order], 1)),
        uniform_share=100 / tokenizer.vocab_size,
        examples_per_code=PATCHES_PER_ROW**2,
        examples=[draw_code(c, originals, all_ids, tokenizer.stride) for c in frequent],
        example_captions=[f'{code}: {percent[code]:.2g} %' for code in frequent],
    )

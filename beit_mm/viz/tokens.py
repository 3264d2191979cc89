"""What a tokenizer keeps of images: token maps, reconstructions, and the use of its codes."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import hsv_to_rgb

from ..models import DiscreteVAE
from ..models.dvae_losses import psnr
from ..models.histogram import perplexity
from .images import tile, to_uint8
from .inputs import to_rgb, to_tensor
from .pages import write_page

SHOWN_CODES = 24
PATCHES_PER_CODE = 9


def code_colors(vocab_size: int) -> np.ndarray:
    """Return a color per code, uint8 RGB [K, 3]; neighboring numbers get distant colors."""
    code = np.arange(vocab_size)
    hue = code * 0.61803398875 % 1
    saturation = 0.45 + 0.5 * (code % 3) / 2
    value = 0.95 - 0.4 * (code % 5) / 4
    return (hsv_to_rgb(np.stack([hue, saturation, value], 1)) * 255).round().astype(np.uint8)


def find_patches(
    images: list[np.ndarray], ids: list[np.ndarray], code: int, stride: int, count: int
) -> list[np.ndarray]:
    """Return the first patches [stride, stride, C] of images whose token is `code`."""
    found = []
    for image, image_ids in zip(images, ids, strict=True):
        for row, column in stride * np.argwhere(image_ids == code):
            found.append(image[row : row + stride, column : column + stride])
    return found[:count]


@torch.no_grad()
def write_tokens(
    path: Path,
    tokenizer: DiscreteVAE,
    images: dict[str, np.ndarray],
    bands: list[int] | None = None,
) -> None:
    """Write a page about images: path → uint8 [H, W, C], sides are multiples of the stride."""
    stride, vocab_size = tokenizer.stride, tokenizer.vocab_size
    palette = code_colors(vocab_size)
    shown, all_ids, originals = [], [], []
    for name, image in images.items():
        pixels = to_tensor(image)[None] / 255
        ids = tokenizer.tokens(pixels)
        reconstruction = tokenizer.decode(ids)
        grid = ids[0].numpy()
        all_ids.append(grid)
        originals.append(to_rgb(image, bands))
        decibels = psnr(reconstruction, pixels).item()
        caption = f'{Path(name).name}: {grid.shape[1]}×{grid.shape[0]} tokens'
        colored = palette[grid].repeat(stride, 0).repeat(stride, 1)
        reconstructed = to_rgb(to_uint8(reconstruction[0].numpy()), bands)
        pictures = [originals[-1], colored, reconstructed]
        shown.append(dict(caption=f'{caption}, PSNR {decibels:.1f} dB', pictures=pictures))

    counts = np.bincount(np.concatenate([ids.ravel() for ids in all_ids]), minlength=vocab_size)
    percent = 100 * counts / counts.sum()
    order = np.argsort(-counts, kind='stable')[: (counts > 0).sum()]
    frequent = order[:SHOWN_CODES]
    effective = perplexity(torch.from_numpy(counts).double())
    write_page(
        path,
        'tokens.html',
        title='What the tokenizer keeps',
        images=shown,
        usage=f'{len(order)} of {vocab_size} codes in {counts.sum()} tokens, '
        f'perplexity {effective:.0f}.',
        shares=[(rank, percent[code]) for rank, code in enumerate(order, 1)],
        uniform_share=100 / vocab_size,
        examples_per_code=PATCHES_PER_CODE,
        examples=[
            tile(find_patches(originals, all_ids, code, stride, PATCHES_PER_CODE), 3)
            for code in frequent
        ],
        example_captions=[f'{code}: {percent[code]:.2g} %' for code in frequent],
    )

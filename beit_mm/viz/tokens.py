"""What a tokenizer makes of images: the map of its tokens, the images drawn from them, and which codes they use."""

import colorsys
from pathlib import Path

import numpy as np
import torch

from ..models import DiscreteVAE
from ..models.histogram import perplexity
from . import draw
from .draw import text
from .inputs import shown, to_tensor

OFTEN, EXAMPLES = 24, 9  # codes that are shown, patches of each


@torch.no_grad()
def read(tokenizer: DiscreteVAE, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 [H, W, C], sides multiples of the stride → ids int64 [h, w], and the image drawn from them, like it."""
    ids = tokenizer.tokens(to_tensor(image)[None] / 255)
    return ids[0].numpy(), draw.to_uint8(tokenizer.decode(ids)[0].numpy())


def usage(ids: list[np.ndarray], vocab_size: int) -> np.ndarray:
    """How often each code occurs, int64 [K]."""
    return np.bincount(np.concatenate([each.ravel() for each in ids]), minlength=vocab_size)


def examples(
    images: list[np.ndarray], ids: list[np.ndarray], code: int, stride: int, count: int = EXAMPLES
) -> list[np.ndarray]:
    """The first patches [stride, stride, 3] of images whose token is `code`, at most `count`."""
    found = []
    for image, each in zip(images, ids, strict=True):
        for row, column in np.argwhere(each == code)[: count - len(found)]:
            found.append(
                image[row * stride : (row + 1) * stride, column * stride : (column + 1) * stride]
            )
    return found


def colours(vocab_size: int) -> np.ndarray:
    """A colour a code, uint8 RGB [K, 3]: neighbours in number are far apart."""
    hues = np.arange(vocab_size) * 0.61803398875 % 1
    values = [
        colorsys.hsv_to_rgb(hue, 0.45 + 0.5 * (i % 3) / 2, 0.95 - 0.4 * (i % 5) / 4)
        for i, hue in enumerate(hues)
    ]
    return (np.array(values) * 255).round().astype(np.uint8)


def sections(
    tokenizer: DiscreteVAE, images: dict[str, np.ndarray], bands: list[int] | None = None
) -> list[str]:
    """Draw images (path → uint8 [H, W, C], sides multiples of the stride), the histogram of codes, the most frequent ones.

    `bands`: those that are drawn, as `shown` takes them.
    """
    stride, size, palette = tokenizer.stride, tokenizer.vocab_size, colours(tokenizer.vocab_size)
    pictures, all_ids = [], []
    for name, image in images.items():
        ids, drawn = read(tokenizer, image)
        all_ids.append(ids)
        error = ((image.astype(float) - drawn) ** 2).mean() / 255**2
        caption = f'{Path(name).name}: {ids.shape[1]}×{ids.shape[0]} tokens, PSNR {-10 * np.log10(max(error, 1e-10)):.1f} dB'
        row = [
            shown(image, bands),
            palette[ids].repeat(stride, 0).repeat(stride, 1),
            shown(drawn, bands),
        ]
        pictures += [
            f'<h3>{text(caption)}</h3>',
            draw.picture_table(['image', 'tokens', 'from its tokens'], [row]),
        ]
    counts = usage(all_ids, size)
    order, total = np.argsort(-counts, kind='stable'), counts.sum()
    used = int((counts > 0).sum())
    shares = [
        (float(rank), 100 * counts[code] / total) for rank, code in enumerate(order[:used], 1)
    ]
    often = [code for code in order[:OFTEN] if counts[code]]
    drawn = [shown(image, bands) for image in images.values()]
    tiles = [draw.tile(examples(drawn, all_ids, code, stride), 3) for code in often]
    captions = [f'{code}: {100 * counts[code] / total:.2g} %' for code in often]
    return [
        '<h2>Images</h2><p>A colour in the middle is a code, chosen to tell codes apart and nothing else.</p>',
        *pictures,
        f'<h2>Use of the codebook</h2><p>{used} of {size} codes in {total} tokens, '
        f'perplexity {perplexity(torch.from_numpy(counts).double()):.0f}. Codes by rank, % of the tokens:</p>',
        draw.line_chart(
            {'these images': shares}, {'all codes alike': 100 / size}, 'rank of the code'
        ),
        f'<h2>The most frequent codes</h2><p>Each with up to {EXAMPLES} of its patches.</p>',
        draw.gallery(tiles, captions),
    ]

"""Drawing: arrays and numbers in, pieces of a web page out. Images are uint8 RGB [H, W, 3]; no file is read here."""

import base64
import html
import math
import re
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

# What a share of the largest looks like, in 256 steps: dark is little, bright much, in colours as in gray.
HEAT = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)[
    :, 0, ::-1
].copy()  # RGB [256, 3]
OPACITY = 0.6  # of a map over its image
MARKS = (
    (255, 140, 0),
    (255, 0, 255),
    (0, 255, 255),
    (0, 255, 0),
    (255, 255, 0),
    (255, 0, 0),
    (0, 0, 255),
)
# Readable on white and on black, and told apart by those who see red and green alike.
COLOURS = ('#0b84c6', '#e07b00', '#1a9a6c', '#c9529d', '#8c7ae6', '#a08a00')

# Control characters but tab and line ends; marks of direction; halves of what UTF-16 writes in two, as of broken file names.
_UNSEEN = re.compile(
    r'[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]'
)


def text(words: str) -> str:
    """Words from outside as the text of a page or of an attribute in quotes, whatever they hold.

    Marks that cannot be seen, such as those that turn the direction of what follows, are shown by number.
    """
    return html.escape(_UNSEEN.sub(lambda mark: f'\\u{ord(mark[0]):04x}', words))


def png(image: np.ndarray) -> str:
    """An image as a data URI."""
    encoded = cv2.imencode(
        '.png', np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_PNG_COMPRESSION, 9]
    )[1]
    return 'data:image/png;base64,' + base64.b64encode(encoded).decode()


def to_uint8(image: np.ndarray) -> np.ndarray:
    """[C, H, W] in [0, 1] → uint8 [H, W, C]."""
    return (image.transpose(1, 2, 0) * 255).round().clip(0, 255).astype(np.uint8)


def hide(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image with the patches grey that a mask, bool [h, w], hides."""
    patch = image.shape[0] // mask.shape[0], image.shape[1] // mask.shape[1]
    hidden = mask.repeat(patch[0], 0).repeat(patch[1], 1)
    return np.where(hidden[..., None], np.uint8(128), image)


def overlay(
    image: np.ndarray, labels: np.ndarray, palette: Sequence, share: float = 0.6
) -> np.ndarray:
    """Labels [H, W] in the colours of a palette [K, 3] over the image; those beyond the palette leave it as it is."""
    known = labels < len(palette)
    colours = np.asarray(palette, float)[np.where(known, labels, 0)]
    mixed = (1 - share) * image + share * colours
    return np.where(known[..., None], mixed.round(), image).astype(np.uint8)


def grey(image: np.ndarray) -> np.ndarray:
    """The image without its colours, still [H, W, 3]."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def heat(image: np.ndarray, shares: np.ndarray, brightest: float | None = None) -> np.ndarray:
    """Draw a map [h, w], not negative, over the grey image, one color per patch.

    `brightest`: the share that has the brightest color, and those above it; None: the largest.
    """
    levels = (255 * shares / (brightest or shares.max() or 1)).round().clip(0, 255).astype(np.uint8)
    rows, columns = (
        np.arange(n) * cells // n for n, cells in zip(image.shape[:2], shares.shape, strict=True)
    )
    colours = HEAT[levels][rows[:, None], columns]
    return ((1 - OPACITY) * grey(image) + OPACITY * colours).round().astype(np.uint8)


def outline(image: np.ndarray, patch: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """The image with a white frame in black around the patch (row, column) of a grid, outside of it where there is room."""
    (row, column), (height, width) = patch, image.shape[:2]
    top, bottom = (-(-(row + i) * height // grid[0]) for i in (0, 1))
    left, right = (-(-(column + i) * width // grid[1]) for i in (0, 1))
    image, edge = image.copy(), max(1, width // 240)
    for colour, reach in (((0, 0, 0), 2 * edge), ((255, 255, 255), edge)):
        kept = image[top:bottom, left:right].copy()
        image[max(top - reach, 0) : bottom + reach, max(left - reach, 0) : right + reach] = colour
        image[top:bottom, left:right] = kept
    return image


def outline_hidden(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Draw an orange line inside the edge of the patches that a mask, bool [h, w], hides."""
    patch = image.shape[0] // mask.shape[0], image.shape[1] // mask.shape[1]
    hidden = mask.repeat(patch[0], 0).repeat(patch[1], 1).astype(np.uint8)
    width = 1 + 2 * max(1, patch[0] // 12)
    edge = hidden > cv2.erode(hidden, np.ones((width, width), np.uint8))
    return np.where(edge[..., None], np.uint8(MARKS[0]), image)


def color_apart(palette: Sequence) -> tuple[int, int, int]:
    """Return the one of `MARKS` that is farthest from all colors of a palette [K, 3]."""
    distance = np.linalg.norm(
        np.asarray(MARKS, float)[:, None] - np.asarray(palette, float), axis=2
    )
    return MARKS[distance.min(1).argmax()]


def errors(
    image: np.ndarray, wrong: np.ndarray, labelled: np.ndarray, color: Sequence
) -> np.ndarray:
    """Return the grey image, in `color` where `wrong` [H, W], and black where it is not `labelled`."""
    drawn = overlay(grey(image) // 2 + 64, np.where(wrong, 0, 1), [color], share=0.8)
    return np.where(labelled[..., None], drawn, 0).astype(np.uint8)


def tile(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """At most columns² images of one size in a square, row by row, with grey between them and where there is none."""
    height, width, _ = images[0].shape
    sheet = np.full((columns * (height + 1) - 1, columns * (width + 1) - 1, 3), 128, np.uint8)
    for place, image in enumerate(images[: columns**2]):
        top, left = place // columns * (height + 1), place % columns * (width + 1)
        sheet[top : top + height, left : left + width] = image
    return sheet


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """At most `count` + 1 round numbers from `low` to `high`."""
    step = 10 ** math.floor(math.log10((high - low) / count))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= count)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def line_chart(
    lines: dict[str, list[tuple[float, float]]], levels: dict[str, float], x_label: str
) -> str:
    """An SVG of named lines, points (x, y) each with x ≥ 0, and of dashed horizontal levels; several have a legend.

    What is not finite is left out; '' when nothing is left.
    """
    lines = {
        name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in lines.items()
    }
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return ''
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points] + list(levels.values())
    x_high, low, high = max(xs) or 1, min(ys), max(ys)
    margin = 0.06 * (high - low) or 1.0
    low, high = low - margin, high + margin
    left, right, top, bottom = 60, 452, 10, 228

    def px(x: float) -> float:
        return left + (right - left) * x / x_high

    def py(y: float) -> float:
        return bottom - (bottom - top) * (y - low) / (high - low)

    parts = ['<svg viewBox="0 0 460 262" role="img" font-size="12" fill="currentColor">']
    for y in ticks(low, high):
        parts.append(f'<path d="M{left} {py(y):.1f}H{right}" stroke="currentColor" opacity=".15"/>')
        parts.append(f'<text x="{left - 6}" y="{py(y) + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x in ticks(0, x_high):
        parts.append(f'<text x="{px(x):.1f}" y="{bottom + 16}" text-anchor="middle">{x:g}</text>')
    parts.append(
        f'<text x="{(left + right) / 2}" y="258" text-anchor="middle">{text(x_label)}</text>'
    )
    for name, y in levels.items():
        parts.append(
            f'<path d="M{left} {py(y):.1f}H{right}" stroke="currentColor" stroke-dasharray="5 4"/>'
        )
        parts.append(f'<text x="{right}" y="{py(y) - 5:.1f}" text-anchor="end">{text(name)}</text>')
    shades = [f'hsl({250 - 220 * i // max(len(lines) - 1, 1)} 75% 50%)' for i in range(len(lines))]
    colours = dict(zip(lines, COLOURS if len(lines) <= len(COLOURS) else shades, strict=False))
    for name, points in lines.items():
        path = 'L'.join(f'{px(x):.1f} {py(y):.1f}' for x, y in points)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colours[name]}" stroke-width="2"/>')
    return ''.join(parts) + '</svg>' + (legend(colours) if len(lines) > 1 or levels else '')


def legend(colours: dict[str, str]) -> str:
    """Names beside patches of their colours (CSS)."""
    chips = [
        f'<span><i style="background:{text(colour)}"></i>{text(name)}</span>'
        for name, colour in colours.items()
    ]
    return f'<p class="legend">{"".join(chips)}</p>'


def picture_table(columns: list[str], rows: list[list[np.ndarray]]) -> str:
    """Images in columns, one scene or more a row."""
    cells = [
        [_img(image, column) for column, image in zip(columns, row, strict=True)] for row in rows
    ]
    # More than six do not fit beside each other on a phone: they scroll.
    wide = f' style="min-width:{6 * len(columns)}rem"' if len(columns) > 6 else ''
    return _table(f' class="pictures"{wide}', columns, cells)


def gallery(images: Sequence[np.ndarray], captions: Sequence[str]) -> str:
    """Images beside each other, as many as fit, each above its caption."""
    cells = [
        f'<figure>{_img(image, caption)}<figcaption>{text(caption)}</figcaption></figure>'
        for image, caption in zip(images, captions, strict=True)
    ]
    return f'<div class="gallery">{"".join(cells)}</div>'


def _img(image: np.ndarray, words: str) -> str:
    """The page shows every pixel of a small image; one that is larger than its place has to be made smaller smoothly."""
    smooth = ' style="image-rendering:auto"' if image.shape[1] > 256 else ''
    return f'<img alt="{text(words)}"{smooth} src="{png(image)}">'


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table of escaped text."""
    return _table('', head, [map(text, row) for row in rows])


def _table(attributes: str, head: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [''.join(f'<th>{text(cell)}</th>' for cell in head)]
    lines += [''.join(f'<td>{cell}</td>' for cell in row) for row in rows]
    return (
        f'<div class="wide"><table{attributes}><tr>'
        + '</tr><tr>'.join(lines)
        + '</tr></table></div>'
    )

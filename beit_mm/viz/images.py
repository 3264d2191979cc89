"""Drawing on images: uint8 RGB [H, W, 3] in and out."""

import base64
import io
from collections.abc import Sequence

import cv2
import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageColor, ImageDraw
from scipy.ndimage import binary_erosion, maximum_filter, minimum_filter
from scipy.spatial import KDTree

# Colors of 0 … 255, uint8 RGB [256, 3]: dark for small values, bright for large ones.
HEAT_MAPS = {
    name: colormaps[name](np.arange(256), bytes=True)[:, :3].copy()
    for name in ('inferno', 'viridis', 'cividis', 'gray')
}
OPACITY = 0.6  # of colors over an image
MASKED_COLOR = ImageColor.getrgb('darkorange')
MIN_SIDE = 256  # pixels, of a picture with lines that are thinner than its pixels


def to_data_uri(image: np.ndarray) -> str:
    """Return an image as a PNG in a data URI."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, 'PNG', optimize=True)
    return 'data:image/png;base64,' + base64.b64encode(file.getvalue()).decode()


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Convert [C, H, W] in [0, 1] to uint8 [H, W, C]."""
    return (image.transpose(1, 2, 0) * 255).round().clip(0, 255).astype(np.uint8)


def to_gray(image: np.ndarray) -> np.ndarray:
    """Remove the colors of an image, and keep three channels."""
    return np.array(Image.fromarray(image).convert('L').convert('RGB'))


def enlarge(cells: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Enlarge values [h, w, ...] of a grid of patches to pixels [H, W, ...] of `size` (H, W)."""
    rows = np.arange(size[0]) * cells.shape[0] // size[0]
    columns = np.arange(size[1]) * cells.shape[1] // size[1]
    return cells[rows[:, None], columns]


def magnify(cells: np.ndarray) -> np.ndarray:
    """Enlarge [H, W, ...] by the smallest integer that makes the shorter side `MIN_SIDE`."""
    factor = -(-MIN_SIDE // min(cells.shape[:2]))
    return enlarge(cells, (factor * cells.shape[0], factor * cells.shape[1]))


def gray_out(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Make masked patches gray; `mask` is bool [h, w]."""
    return np.where(enlarge(mask, image.shape[:2])[..., None], np.uint8(128), image)


def outline_masked(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Draw a line inside the border of masked patches; `mask` is bool [h, w]."""
    masked = enlarge(mask, image.shape[:2])
    width = 1 + 2 * max(1, image.shape[0] // mask.shape[0] // 12)
    inside = binary_erosion(masked, np.ones((width, width)), border_value=1)
    return np.where((masked & ~inside)[..., None], np.uint8(MASKED_COLOR), image)


def overlay_classes(
    image: np.ndarray, labels: np.ndarray, palette: Sequence, opacity: float = OPACITY
) -> np.ndarray:
    """Draw class ids [H, W] in the colors of a palette [K, 3]; ids ≥ K stay transparent."""
    known = labels < len(palette)
    colors = np.asarray(palette, float)[np.where(known, labels, 0)]
    mixed = (1 - opacity) * image + opacity * colors
    return np.where(known[..., None], mixed.round(), image).astype(np.uint8)


def outline_classes(image: np.ndarray, labels: np.ndarray, palette: Sequence) -> np.ndarray:
    """Draw class ids [H, W] as light areas with outlines in the colors of a palette [K, 3].

    Ids ≥ K stay transparent. Small images are magnified, so that the outlines are thin.
    """
    image, labels = magnify(image), magnify(labels)
    width = 1 + 2 * max(1, min(labels.shape) // 200)
    border = maximum_filter(labels, width) != minimum_filter(labels, width)
    light = overlay_classes(image, labels, palette, opacity=0.45)
    return np.where(border[..., None], overlay_classes(image, labels, palette, 1.0), light)


def overlay_errors(
    image: np.ndarray, wrong: np.ndarray, labeled: np.ndarray, color: Sequence
) -> np.ndarray:
    """Draw wrong pixels in a color over the gray image, and unlabeled pixels in black.

    `wrong` and `labeled` are bool [H, W]. Small images are magnified, as by `outline_classes`.
    """
    image, wrong, labeled = map(magnify, (image, wrong, labeled))
    drawn = overlay_classes(to_gray(image) // 2 + 64, np.where(wrong, 0, 1), [color], opacity=0.8)
    return np.where(labeled[..., None], drawn, 0).astype(np.uint8)


def pick_error_color(palette: Sequence) -> list[int]:
    """Return the RGB color that differs most from a palette [K, 3], and from black and grays.

    It has the largest distance to the nearest of them, in CIELAB, in which equal distances look
    about equally different.
    """
    steps = np.linspace(0, 255, 18).round()
    candidates = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3)
    taken = np.concatenate([np.asarray(palette, float), steps[:, None].repeat(3, 1)])
    distance, _ = KDTree(_to_lab(taken)).query(_to_lab(candidates))
    return candidates[distance.argmax()].astype(int).tolist()


def _to_lab(colors: np.ndarray) -> np.ndarray:
    """Convert RGB [N, 3] of 0 … 255 to CIELAB [N, 3]."""
    return cv2.cvtColor(np.float32(colors[None]) / 255, cv2.COLOR_RGB2LAB)[0]


def overlay_heat(
    image: np.ndarray, values: np.ndarray, low: float = 0, high: float | None = None
) -> np.ndarray:
    """Draw values of patches [h, w] in the colors of a heat map over the image.

    `low` and lower values get the darkest color, `high` (default: the largest value) and higher
    values the brightest.
    """
    span = (values.max() if high is None else high) - low
    levels = (255 / (span or 1) * (values - low)).round().clip(0, 255).astype(np.uint8)
    return overlay_classes(image, enlarge(levels, image.shape[:2]), HEAT_MAPS['inferno'])


def frame_patch(image: np.ndarray, patch: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """Draw a white and a black frame around the patch (row, column) of a grid."""
    inside = np.zeros(grid, bool)
    inside[patch] = True
    rows, columns = np.nonzero(enlarge(inside, image.shape[:2]))
    picture = Image.fromarray(image)
    line = max(1, image.shape[1] // 240)
    for color, reach in (('black', 2 * line), ('white', line)):
        box = columns[0] - reach, rows[0] - reach, columns[-1] + reach, rows[-1] + reach
        ImageDraw.Draw(picture).rectangle(box, outline=color, width=reach)
    return np.array(picture)

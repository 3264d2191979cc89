"""Drawing of a scene of Shapes at any size: its image, its label map and its class."""

import math

import cv2
import numpy as np

from .layout import TEXTURES, Layout, Skin, Thing, layout
from .outlines import DISC, INWARD, OUTLINES, REACH

SPREAD = 0.64  # pixels by which the antialiased edge of cv2.fillPoly is too far outside
BAR_PARTS = ((-1, 1, 0.82), (-0.7, 0.5, 1.0), (-0.4, 0.0, 1.12))  # rims, middle, ridge: brightness


def scene(
    seed: int, index: int, size: int, wrapped: bool = False
) -> tuple[np.ndarray, np.ndarray, int]:
    """Draw the scene (seed, index): RGB uint8 [S, S, 3], labels uint8 [S, S], class 0 … 9.

    The same things lie at the same places in any size. See `render` for the labels.
    """
    if seed < 0 or index < 0:
        raise ValueError(f'seed={seed}, index={index}: expected at least 0')
    if size < 16:
        raise ValueError(f'size={size}: expected at least 16 pixels')
    plan = layout(seed, index, wrapped)
    return *render(plan, size, np.random.default_rng([seed, index, 1])), plan.label


def render(plan: Layout, size: int, noise: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a layout: RGB uint8 [S, S, 3] and labels uint8 [S, S].

    Labels are 0 for the bar (ADE20K's "other"), 1 for the background, 2 + species for things.
    """
    scale = max(1, math.ceil(128 / size))  # small images are drawn larger and averaged
    width = size * scale
    image, labels = np.tile(plan.ground, (width, width, 1)), np.ones((size, size), np.uint8)

    def mark(label: int, cover: np.ndarray) -> None:
        small = cv2.resize(cover, (size, size), interpolation=cv2.INTER_AREA)
        np.putmask(labels, small > 0.5, label)

    sprites, shadow = {}, round(0.018 * width)
    for thing in plan.things:
        if thing.skin not in sprites:
            sprites[thing.skin] = _sprite(thing, width)
        top, left, pixels = _place(sprites[thing.skin], thing, width)
        h, w = pixels.shape[:2]
        if not h:
            continue
        alpha = pixels[..., 3]
        weight = cv2.merge([alpha] * 3)
        shaded = image[top + shadow : top + shadow + h, left + shadow : left + shadow + w]
        shaded *= 1 - np.float32(0.3) * weight[: shaded.shape[0], : shaded.shape[1]]
        under = image[top : top + h, left : left + w]
        under += (cv2.cvtColor(pixels, cv2.COLOR_BGRA2BGR) - under) * weight
        cover = np.zeros((width, width), np.float32)
        cover[top : top + h, left : left + w] = alpha
        mark(2 + thing.species, cover)
    if plan.bar is not None:
        mark(0, _draw_bar(image, plan.bar))
    if scale > 1:
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    image += cv2.merge([noise.standard_normal((size, size), np.float32)] * 3)
    return cv2.convertScaleAbs(image), labels


def _sprite(thing: Thing, width: int) -> np.ndarray:
    """Draw a thing upright for a canvas of `width` pixels: RGBA f32 [n, n, 4], alpha 0 … 1."""
    unit, shape, skin = thing.radius * width, DISC if thing.wrapped else thing.species, thing.skin
    side = 2 * math.ceil(REACH[shape] * unit) + 1
    axis = ((np.arange(side) - (side - 1) / 2) / unit).astype(np.float32)  # in radii
    u, v = axis[None], axis[:, None]
    figure = _texture(TEXTURES[skin.texture], u, v, skin)
    share = np.clip(0.5 + skin.contrast * (figure + skin.balance), 0, 1)
    dome = (1 + 0.5 * skin.dome) - skin.dome * (u * u + v * v)
    inks = list(zip(skin.inks[:3], skin.inks[3:], strict=True))
    colors = cv2.merge([(low + (high - low) * share) * dome for low, high in inks])

    outline = OUTLINES[shape] * unit + (side - 1) / 2
    points = np.round(outline * 16).astype(np.int32)  # with 4 fractional bits
    inner = np.round((outline + SPREAD * INWARD[shape]) * 16).astype(np.int32)
    thickness, brightness = skin.rim
    rim = [brightness / 2 * (low + high) for low, high in inks]
    cv2.polylines(colors, [points], True, rim, max(1, round(thickness * unit)), cv2.LINE_AA, 4)
    alpha = cv2.fillPoly(np.zeros((side, side), np.uint8), [inner], 255, cv2.LINE_AA, 4)
    return cv2.merge([*cv2.split(colors), alpha.astype(np.float32) / 255])


def _texture(kind: str, u: np.ndarray, v: np.ndarray, skin: Skin) -> np.ndarray:
    """Return a pattern with mean 0 at coordinates in radii; broadcasts to [len(v), len(u)]."""
    k, (p, q) = 2 * math.pi / skin.period, skin.phase
    if kind == 'stripes':
        return np.sin(k * u + p)
    if kind == 'bands':
        return np.sin(k * v + p)
    if kind == 'checks':
        return 1.9 * np.sin(k * u + p) * np.sin(k * v + q)
    if kind == 'dots':
        return np.cos(k * u + p) + np.cos(k * v + q) - 0.35
    return np.cos(0.71 * k * (u - v) + p)


def _place(sprite: np.ndarray, thing: Thing, width: int) -> tuple[int, int, np.ndarray]:
    """Turn a sprite. Returns top, left and the pixels inside of the canvas."""
    middle = (sprite.shape[0] - 1) / 2
    x, y = thing.x * width - 0.5, thing.y * width - 0.5
    left, top = max(0, math.floor(x - middle)), max(0, math.floor(y - middle))
    right, bottom = min(width, math.ceil(x + middle) + 1), min(width, math.ceil(y + middle) + 1)
    if left >= right or top >= bottom:
        return 0, 0, sprite[:0, :0]
    cos, sin, flip = math.cos(thing.angle), math.sin(thing.angle), -1 if thing.mirrored else 1
    dx, dy = x - left - middle * (cos - sin * flip), y - top - middle * (sin + cos * flip)
    matrix = np.array([[cos, -sin * flip, dx], [sin, cos * flip, dy]])
    return top, left, cv2.warpAffine(sprite, matrix, (right - left, bottom - top))


def _draw_bar(image: np.ndarray, bar: tuple) -> np.ndarray:
    """Paint the bar and return what it covers, f32 0 … 1."""
    x, y, angle, half, gray = bar
    width = len(image)
    along = 2 * np.array([math.cos(angle), math.sin(angle)])
    across = np.array([-math.sin(angle), math.cos(angle)])

    def strip(near: float, far: float, half: float) -> list[np.ndarray]:
        corners = ((-1, near), (1, near), (1, far), (-1, far))
        edges = np.array([t * along + side * half * across for t, side in corners])
        return [np.round(((edges + np.array([x, y])) * width - 0.5) * 16).astype(np.int32)]

    for near, far, level in BAR_PARTS:
        color = (gray * level, gray * level * 0.97, gray * level * 0.92)
        cv2.fillPoly(image, strip(near, far, half), color, cv2.LINE_8, 4)
    cover, edge = np.zeros((width, width), np.uint8), half - SPREAD / width
    return cv2.fillPoly(cover, strip(-1, 1, edge), 255, cv2.LINE_AA, 4).astype(np.float32) / 255

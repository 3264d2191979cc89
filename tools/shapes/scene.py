"""One scene of Shapes drawn at any side: its image, its label map and its class. What is where `shapes_layout` decides.

`render` is a pure function of the layout, `scene` of (seed, index); see `shapes.draw` for the data set.
"""

import math

import cv2
import numpy as np

from .layout import SPECIES, TEXTURES, Layout, Skin, Thing, layout


def _outlines() -> list[np.ndarray]:
    """Float [K, 2] polygon of each species and of a disc, y down, in radii; equal areas as far as 1.3 radii allow."""
    t, s = np.linspace(0, 2 * math.pi, 96, endpoint=False), np.linspace(-1, 1, 40)[:, None]
    sin, cos = np.sin(t), np.cos(t)

    def polar(r: np.ndarray) -> np.ndarray:
        return np.stack([r * sin, -r * cos], 1)

    def arc(first: float, last: float, width: float, height: float, x: float = 0) -> np.ndarray:
        turn = np.linspace(first, last, 50)
        return np.stack([x + width * np.cos(turn), height * np.sin(turn)], 1)

    a, pi = 0.36, math.pi
    shapes = dict(
        starfish=polar(0.42 + 0.58 * np.abs(np.cos(2.5 * t)) ** 1.6),
        flower=polar(0.78 + 0.22 * np.cos(7 * t)),
        heart=np.stack(
            [16 * sin**3, 5 * np.cos(2 * t) + 2 * np.cos(3 * t) + np.cos(4 * t) - 13 * cos], 1
        ),
        leaf=np.concatenate(
            [np.hstack([(1 - s * s) / 2, s]), np.hstack([(s * s - 1) / 2, -s])[1:-1]]
        ),
        fish=np.concatenate(
            [arc(0.6 - pi, pi - 0.6, 0.72, 0.55, 0.28), [[-0.95, 0.62], [-0.8, 0], [-0.95, -0.62]]]
        ),
        moon=np.concatenate([arc(0.6, 2 * pi - 0.6, 1, 1), arc(2 * pi - 1, 1, 0.62, 0.67, 0.42)]),
        drop=np.stack([0.62 * sin * np.sin(t / 2) ** 1.6, -cos], 1),
        cross=np.array([(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a)]),  # half of it
        butterfly=polar(0.3 + 0.75 * np.abs(np.sin(2 * t)) ** 0.9 * np.where(cos > 0, 1, 0.72)),
        disc=polar(np.ones_like(t)),
        mushroom=np.array(
            [(0.98, 0.16), (0.32, 0.16), (0.4, 0.9), (-0.4, 0.9), (-0.32, 0.16), (-0.98, 0.16)]
        ),
    )
    shapes['cross'] = np.concatenate([shapes['cross'], -shapes['cross']])
    shapes['mushroom'] = np.concatenate([arc(pi, 2 * pi, 1, 0.92), shapes['mushroom']])
    polygons = []
    for name in (*SPECIES, 'disc'):
        points = shapes[name] - (shapes[name].max(0) + shapes[name].min(0)) / 2
        x, y = points.T
        points *= math.sqrt(2 / (abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2))
        polygons.append(points * min(1, 1.3 / np.linalg.norm(points, axis=1).max()))
    return polygons


def _inward(points: np.ndarray) -> np.ndarray:
    """For each corner the step that moves both its sides inwards by 1."""
    sides = np.roll(points, -1, 0) - points
    normals = np.stack([-sides[:, 1], sides[:, 0]], 1) / np.linalg.norm(
        sides, axis=1, keepdims=True
    )
    x, y = points.T
    normals *= np.sign(x @ np.roll(y, -1) - y @ np.roll(x, -1))
    before = np.roll(normals, 1, 0)
    return (normals + before) / np.maximum(1 + (normals * before).sum(1, keepdims=True), 0.3)


_OUTLINES = _outlines()
_INWARD = [_inward(outline) for outline in _OUTLINES]
_SPREAD = 0.64  # pixels that cv2.fillPoly's antialiased edge reaches too far, at any size
_DISC = len(SPECIES)  # of wrapped things
_REACH = [
    float(np.linalg.norm(outline, axis=1).max()) + 0.07 for outline in _OUTLINES
]  # with half the rim


def _axis(side: int, unit: float) -> np.ndarray:
    """float32 [side], zero in the middle, `unit` pixels long per 1."""
    return ((np.arange(side) - (side - 1) / 2) / unit).astype(np.float32)


def _texture(kind: str, u: np.ndarray, v: np.ndarray, skin: Skin) -> np.ndarray:
    """A figure with zero mean and the sign as its pattern, at coordinates in radii; broadcasts to [len(v), len(u)]."""
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


def _sprite(thing: Thing, width: int) -> np.ndarray:
    """float32 [n, n, 4]: colours everywhere, the outline as alpha 0..1, upright, for a canvas `width` pixels wide."""
    unit = thing.radius * width
    shape = _DISC if thing.wrapped else thing.species
    side = 2 * math.ceil(_REACH[shape] * unit) + 1
    u, v = _axis(side, unit)[None], _axis(side, unit)[:, None]
    skin = thing.skin
    figure = _texture(TEXTURES[thing.skin.texture], u, v, skin)
    share = np.clip(0.5 + skin.contrast * (figure + skin.balance), 0, 1)
    dome = (1 + 0.5 * skin.dome) - skin.dome * (u * u + v * v)
    low, high = skin.inks[:3], skin.inks[3:]
    colours = cv2.merge(
        [(one + (two - one) * share) * dome for one, two in zip(low, high, strict=True)]
    )
    outline = _OUTLINES[shape] * unit + (side - 1) / 2
    points, inner = (
        [np.round(corners * 16).astype(np.int32)]
        for corners in (outline, outline + _SPREAD * _INWARD[shape])
    )
    thick, bright = skin.rim
    rim = [bright / 2 * (one + two) for one, two in zip(low, high, strict=True)]
    cv2.polylines(colours, points, True, rim, max(1, round(thick * unit)), cv2.LINE_AA, 4)
    alpha = cv2.fillPoly(np.zeros((side, side), np.uint8), inner, 255, cv2.LINE_AA, 4)
    return cv2.merge([*cv2.split(colours), alpha.astype(np.float32) / 255])


def _place(sprite: np.ndarray, thing: Thing, width: int) -> tuple[int, int, np.ndarray]:
    """Top, left and pixels of the turned sprite, cut to the canvas (no pixels outside of it)."""
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
    """Paint the bar; what it covers, float32 0..1."""
    x, y, angle, half, grey = bar
    width = len(image)
    along, across = (
        2 * np.array([math.cos(angle), math.sin(angle)]),
        np.array([-math.sin(angle), math.cos(angle)]),
    )

    def between(near: float, far: float, half: float) -> list[np.ndarray]:
        edges = [
            t * along + side * half * across
            for t, side in ((-1, near), (1, near), (1, far), (-1, far))
        ]
        return [
            np.round(((np.array(edges) + np.array([x, y])) * width - 0.5) * 16).astype(np.int32)
        ]

    for near, far, level in (
        (-1, 1, 0.82),
        (-0.7, 0.5, 1.0),
        (-0.4, 0.0, 1.12),
    ):  # darker rims, a lit ridge
        cv2.fillPoly(
            image,
            between(near, far, half),
            (grey * level, grey * level * 0.97, grey * level * 0.92),
            cv2.LINE_8,
            4,
        )
    cover = np.zeros((width, width), np.uint8)
    cv2.fillPoly(cover, between(-1, 1, half - _SPREAD / width), 255, cv2.LINE_AA, 4)
    return cover.astype(np.float32) / 255


def render(plan: Layout, size: int, noise: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a layout at `size` pixels a side.

    Returns:
        RGB uint8 [S, S, 3] and labels uint8 [S, S]: 0 the bar in front (ADE20K's "other"), 1 background, 2 + species.
    """
    over = max(1, math.ceil(128 / size))  # small images are drawn larger and averaged down
    width = size * over
    image, labels = np.tile(plan.ground, (width, width, 1)), np.ones((size, size), np.uint8)

    def mark(value: int, cover: np.ndarray) -> None:
        np.putmask(
            labels, cv2.resize(cover, (size, size), interpolation=cv2.INTER_AREA) > 0.5, value
        )

    sprites, drop = {}, round(0.018 * width)
    for thing in plan.things:
        if thing.skin not in sprites:
            sprites[thing.skin] = _sprite(thing, width)
        top, left, pixels = _place(sprites[thing.skin], thing, width)
        height, breadth = pixels.shape[:2]
        if not height:
            continue
        alpha = pixels[..., 3]
        weight = cv2.merge([alpha] * 3)
        shaded = image[top + drop : top + drop + height, left + drop : left + drop + breadth]
        shaded *= 1 - np.float32(0.3) * weight[: shaded.shape[0], : shaded.shape[1]]
        under = image[top : top + height, left : left + breadth]
        under += (cv2.cvtColor(pixels, cv2.COLOR_BGRA2BGR) - under) * weight
        cover = np.zeros((width, width), np.float32)
        cover[top : top + height, left : left + breadth] = alpha
        mark(2 + thing.species, cover)
    if plan.bar is not None:
        mark(0, _draw_bar(image, plan.bar))
    if over > 1:
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    image += cv2.merge([noise.standard_normal((size, size), np.float32)] * 3)
    return cv2.convertScaleAbs(image), labels


def scene(
    seed: int, index: int, size: int, wrapped: bool = False
) -> tuple[np.ndarray, np.ndarray, int]:
    """RGB uint8 [S, S, 3], labels uint8 [S, S] (see `render`) and the class 0..9 of the scene (seed, index).

    The size is resolution only: the same things lie at the same places.
    """
    if seed < 0 or index < 0:
        raise ValueError(f'a scene needs seed ≥ 0 and index ≥ 0, got seed {seed} and index {index}')
    if size < 16:
        raise ValueError(
            f'a scene needs a side of at least 16 pixels, got {size}; objects are told apart from 64 on'
        )
    plan = layout(seed, index, wrapped)
    return *render(plan, size, np.random.default_rng([seed, index, 1])), plan.label

"""One scene of Shapes: `layout` decides what is where in relative coordinates, `render` draws that at any side.

Both are pure functions, of (seed, index) and of the layout; see `beit_mm.data.shapes` for the data set.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

SPECIES = ('starfish', 'flower', 'heart', 'leaf', 'fish', 'moon', 'drop', 'cross', 'butterfly', 'mushroom')
TEXTURES = ('stripes', 'bands', 'checks', 'dots', 'diagonals')
CLASSES = ('background', *SPECIES)
PALETTE = [[222, 222, 216], [228, 87, 86], [245, 160, 60], [214, 39, 120], [84, 162, 75], [54, 130, 190],
           [240, 208, 70], [114, 190, 215], [120, 94, 70], [150, 95, 180], [30, 140, 130]]  # fmt: skip

# Two colours a palette.
_INKS = np.array(
    [
        [[214, 60, 58], [250, 222, 178]],
        [[32, 82, 160], [242, 202, 66]],
        [[30, 116, 74], [176, 224, 120]],
        [[112, 50, 140], [244, 160, 196]],
        [[70, 44, 36], [240, 136, 48]],
    ],
    np.float32,
)
_ARRANGEMENTS = ('row', 'ring', 'grid', 'mirror')
_LEAN = 0.2  # things stand upright but for this, in radians


def texture_of(species: int) -> int:
    """With `palette_of` a cycle: a species shares its texture with one neighbour, its palette with the other."""
    return species // 2


def palette_of(species: int) -> int:
    return (species + 1) // 2 % 5


@dataclass(frozen=True)
class Skin:
    """How a thing is painted; equal skins share a sprite.

    All that shifts the shares of the colours varies, or a count of colours would tell outline and texture.
    """

    texture: int  # of TEXTURES
    inks: tuple  # low and high, RGB each
    phase: tuple  # of the texture across and down, radians
    period: float  # in radii
    balance: float  # added to the figure's −1..1: which ink covers more
    contrast: float  # how fast one ink turns into the other
    dome: float  # how much darker one radius away from the middle
    rim: tuple  # thickness in radii, brightness from 0 to 1


@dataclass(frozen=True)
class Thing:
    """One object; lengths relative to the image's side, angles in radians."""

    species: int
    x: float
    y: float
    radius: float
    angle: float
    mirrored: bool
    skin: Skin


@dataclass(frozen=True)
class Layout:
    """What is where. `things` lie in drawing order, the first lowest; `bar` is x, y, angle, half width, grey level."""

    label: int
    arrangement: str
    things: tuple[Thing, ...]
    bar: tuple | None
    ground: np.ndarray  # float32 [3], RGB of the background


def _arrange(rng: np.random.Generator, kind: str) -> tuple[float, list[tuple[float, float, float, bool]]]:
    """The main species' radius and its places: x, y, angle, mirrored."""
    tilt, places = rng.uniform(-_LEAN, _LEAN), []
    if kind == 'row':
        number = int(rng.integers(2, 5))
        radius = rng.uniform(0.9, 1.1) * (0.22, 0.185, 0.155)[number - 2]
        step = min(rng.uniform(1.9, 2.4) * radius, (0.96 - 2 * radius) / (number - 1))
        turn = rng.uniform(0, 2 * math.pi)
        off = rng.uniform(-1, 1) * (0.45 - 1.2 * radius)
        slide = rng.uniform(-0.35, 0.35) * (0.98 - 2 * radius - step * (number - 1))
        for i in range(number):
            along = slide + step * (i - (number - 1) / 2)
            places.append((*_turned(along, off, turn), tilt, False))
    elif kind == 'ring':
        number = int(rng.integers(3, 5))
        radius = rng.uniform(0.9, 1.1) * (0.19, 0.165)[number - 3]
        ring = rng.uniform(min(radius / math.sin(math.pi / number), 0.47 - radius), 0.48 - radius)
        start = rng.uniform(0, 2 * math.pi)
        for turn in np.linspace(start, start + 2 * math.pi, number, endpoint=False).tolist():
            places.append((*_turned(ring, 0, turn), tilt, False))
    elif kind == 'grid':
        radius, turn = rng.uniform(0.16, 0.185), rng.uniform(-0.35, 0.35)
        wide, high = (rng.uniform(1.05 * radius, 0.42 - radius, 2) + 0.02).tolist()
        for x, y in ((-wide, -high), (wide, -high), (-wide, high), (wide, high)):
            places.append((*_turned(x, y, turn), tilt, False))
    else:
        pairs = int(rng.integers(1, 3))
        axis = math.pi / 2 * int(rng.integers(2)) + rng.uniform(-0.15, 0.15)
        radius = rng.uniform(0.19, 0.214) if pairs == 1 else rng.uniform(0.155, 0.18)
        along = rng.uniform(-0.1, 0.1) if pairs == 1 else rng.uniform(0.17, 0.24)
        for where in (along, -along)[:pairs]:
            away, lean = rng.uniform(1.05 * radius, 0.44 - radius), rng.uniform(-_LEAN, _LEAN)
            places.append((*_turned(where, away, axis), lean, False))
            places.append((*_turned(where, -away, axis), 2 * axis - lean, True))  # what the mirror makes of the angle
    return radius, places


def _turned(x: float, y: float, angle: float) -> tuple[float, float]:
    """A point given about the image's middle before a turn, in the image's coordinates."""
    cos, sin = math.cos(angle), math.sin(angle)
    return 0.5 + cos * x - sin * y, 0.5 + sin * x + cos * y


def _skin(rng: np.random.Generator, texture: int, palette: int, radius: float) -> Skin:
    inks = _INKS[palette] * rng.uniform(0.85, 1.15, (2, 1)) + rng.uniform(-18, 18, (2, 3))
    if rng.random() < 0.5:  # which ink is the figure and which the ground tells nothing
        inks = inks[::-1]
    dice = rng.random(8).tolist()
    return Skin(
        texture=texture,
        inks=tuple(inks.ravel().tolist()),
        phase=(2 * math.pi * dice[0], 2 * math.pi * dice[1]),
        period=(0.104 + 0.011 * dice[2]) / radius,  # about 7 pixels of 64, a patch holds one, whatever the thing's size
        balance=1.6 * dice[3] - 0.8,
        contrast=0.8 + 1.4 * dice[4],
        dome=0.3 * dice[5],
        rim=(0.05 + 0.1 * dice[6], 0.2 + 0.5 * dice[7]),
    )


def layout(seed: int, index: int, free_textures: bool = False) -> Layout:
    """What the scene (seed, index) holds; its class is index % 10.

    With `free_textures` the texture is drawn whatever the species: a patch can tell two species by their palette, and only
    the outline, larger than a patch, which of both. All else in the scene stays the same.
    """
    rng, free = np.random.default_rng([seed, index]), np.random.default_rng([seed, index, 2])

    def skin_of(species: int, radius: float) -> Skin:
        texture = int(free.integers(len(TEXTURES))) if free_textures else texture_of(species)
        return _skin(rng, texture, palette_of(species), radius)

    label = index % len(SPECIES)
    kind = _ARRANGEMENTS[rng.integers(len(_ARRANGEMENTS))]
    radius, places = _arrange(rng, kind)
    skin = skin_of(label, radius)
    things = [Thing(label, x, y, radius, angle, mirrored, skin) for x, y, angle, mirrored in places]
    for _ in range(rng.integers(3)):
        other = int(label + rng.integers(1, len(SPECIES))) % len(SPECIES)
        spots = rng.uniform(0.08, 0.92, (6, 2))
        gaps = np.linalg.norm(spots[:, None] - np.array([(t.x, t.y) for t in things]), axis=2).min(axis=1)
        x, y = spots[gaps.argmax()].tolist()
        small = min(rng.uniform(0.075, 0.1), 0.65 * radius)
        one = Thing(other, x, y, small, rng.uniform(-_LEAN, _LEAN), False, skin_of(other, small))
        things.insert(0 if rng.random() < 0.5 else len(things), one)
    bar = None
    if rng.random() < 0.35:
        x, y = places[rng.integers(len(places))][:2]
        x, y = (np.array([x, y]) + rng.uniform(-0.08, 0.08, 2)).tolist()
        bar = (x, y, rng.uniform(0, math.pi), rng.uniform(0.022, 0.04), rng.uniform(90, 150))
    # One colour, dark or pale, all over the image: what a hidden patch of it shows can be told from the others.
    level = rng.uniform(35, 80) if rng.random() < 0.4 else rng.uniform(175, 230)
    ground = (level + rng.uniform(-30, 25, 3)).astype(np.float32)
    return Layout(label, kind, tuple(things), bar, ground)


def _outlines() -> list[np.ndarray]:
    """Float [K, 2] polygon of each species, y down, in radii; equal areas as far as 1.3 radii allow."""
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
        heart=np.stack([16 * sin**3, 5 * np.cos(2 * t) + 2 * np.cos(3 * t) + np.cos(4 * t) - 13 * cos], 1),
        leaf=np.concatenate([np.hstack([(1 - s * s) / 2, s]), np.hstack([(s * s - 1) / 2, -s])[1:-1]]),
        fish=np.concatenate([arc(0.6 - pi, pi - 0.6, 0.72, 0.55, 0.28), [[-0.95, 0.62], [-0.8, 0], [-0.95, -0.62]]]),
        moon=np.concatenate([arc(0.6, 2 * pi - 0.6, 1, 1), arc(2 * pi - 1, 1, 0.62, 0.67, 0.42)]),
        drop=np.stack([0.62 * sin * np.sin(t / 2) ** 1.6, -cos], 1),
        cross=np.array([(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a)]),  # half of it
        butterfly=polar(0.3 + 0.75 * np.abs(np.sin(2 * t)) ** 0.9 * np.where(cos > 0, 1, 0.72)),
        mushroom=np.array([(0.98, 0.16), (0.32, 0.16), (0.4, 0.9), (-0.4, 0.9), (-0.32, 0.16), (-0.98, 0.16)]),
    )
    shapes['cross'] = np.concatenate([shapes['cross'], -shapes['cross']])
    shapes['mushroom'] = np.concatenate([arc(pi, 2 * pi, 1, 0.92), shapes['mushroom']])
    polygons = []
    for name in SPECIES:
        points = shapes[name] - (shapes[name].max(0) + shapes[name].min(0)) / 2
        x, y = points.T
        points *= math.sqrt(2 / (abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2))
        polygons.append(points * min(1, 1.3 / np.linalg.norm(points, axis=1).max()))
    return polygons


def _inward(points: np.ndarray) -> np.ndarray:
    """For each corner the step that moves both its sides inwards by 1."""
    sides = np.roll(points, -1, 0) - points
    normals = np.stack([-sides[:, 1], sides[:, 0]], 1) / np.linalg.norm(sides, axis=1, keepdims=True)
    x, y = points.T
    normals *= np.sign(x @ np.roll(y, -1) - y @ np.roll(x, -1))
    before = np.roll(normals, 1, 0)
    return (normals + before) / np.maximum(1 + (normals * before).sum(1, keepdims=True), 0.3)


_OUTLINES = _outlines()
_INWARD = [_inward(outline) for outline in _OUTLINES]
_SPREAD = 0.64  # pixels that cv2.fillPoly's antialiased edge reaches too far, at any size
_REACH = [float(np.linalg.norm(outline, axis=1).max()) + 0.07 for outline in _OUTLINES]  # with half the rim


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
    side = 2 * math.ceil(_REACH[thing.species] * unit) + 1
    u, v = _axis(side, unit)[None], _axis(side, unit)[:, None]
    skin = thing.skin
    figure = _texture(TEXTURES[thing.skin.texture], u, v, skin)
    share = np.clip(0.5 + skin.contrast * (figure + skin.balance), 0, 1)
    dome = (1 + 0.5 * skin.dome) - skin.dome * (u * u + v * v)
    low, high = skin.inks[:3], skin.inks[3:]
    colours = cv2.merge([(one + (two - one) * share) * dome for one, two in zip(low, high, strict=True)])
    outline = _OUTLINES[thing.species] * unit + (side - 1) / 2
    points, inner = (
        [np.round(corners * 16).astype(np.int32)] for corners in (outline, outline + _SPREAD * _INWARD[thing.species])
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
    along, across = 2 * np.array([math.cos(angle), math.sin(angle)]), np.array([-math.sin(angle), math.cos(angle)])

    def between(near: float, far: float, half: float) -> list[np.ndarray]:
        edges = [t * along + side * half * across for t, side in ((-1, near), (1, near), (1, far), (-1, far))]
        return [np.round(((np.array(edges) + np.array([x, y])) * width - 0.5) * 16).astype(np.int32)]

    for near, far, level in ((-1, 1, 0.82), (-0.7, 0.5, 1.0), (-0.4, 0.0, 1.12)):  # darker rims, a lit ridge
        cv2.fillPoly(
            image, between(near, far, half), (grey * level, grey * level * 0.97, grey * level * 0.92), cv2.LINE_8, 4
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
        np.putmask(labels, cv2.resize(cover, (size, size), interpolation=cv2.INTER_AREA) > 0.5, value)

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


def scene(seed: int, index: int, size: int, free_textures: bool = False) -> tuple[np.ndarray, np.ndarray, int]:
    """RGB uint8 [S, S, 3], labels uint8 [S, S] (see `render`) and the class 0..9 of the scene (seed, index).

    The size is resolution only: the same things lie at the same places.
    """
    if seed < 0 or index < 0:
        raise ValueError(f'a scene needs seed ≥ 0 and index ≥ 0, got seed {seed} and index {index}')
    if size < 16:
        raise ValueError(f'a scene needs a side of at least 16 pixels, got {size}; objects are told apart from 64 on')
    plan = layout(seed, index, free_textures)
    return *render(plan, size, np.random.default_rng([seed, index, 1])), plan.label

"""What a scene of Shapes holds, and where, in relative coordinates: a pure function of (seed, index)."""

import math
from dataclasses import dataclass, replace

import numpy as np

SPECIES = (
    'starfish',
    'flower',
    'heart',
    'leaf',
    'fish',
    'moon',
    'drop',
    'cross',
    'butterfly',
    'mushroom',
)
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
    wrapped: bool = False  # a plain disc is seen, whatever the species


@dataclass(frozen=True)
class Layout:
    """What is where. `things` lie in drawing order, the first lowest; `bar` is x, y, angle, half width, grey level."""

    label: int
    arrangement: str
    things: tuple[Thing, ...]
    bar: tuple | None
    ground: np.ndarray  # float32 [3], RGB of the background


def _arrange(
    rng: np.random.Generator, kind: str
) -> tuple[float, list[tuple[float, float, float, bool]]]:
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
            places.append(
                (*_turned(where, -away, axis), 2 * axis - lean, True)
            )  # what the mirror makes of the angle
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
        period=(0.104 + 0.011 * dice[2])
        / radius,  # about 7 pixels of 64, a patch holds one, whatever the thing's size
        balance=1.6 * dice[3] - 0.8,
        contrast=0.8 + 1.4 * dice[4],
        dome=0.3 * dice[5],
        rim=(0.05 + 0.1 * dice[6], 0.2 + 0.5 * dice[7]),
    )


def layout(seed: int, index: int, wrapped: bool = False) -> Layout:
    """What the scene (seed, index) holds; its class is index % 10.

    With `wrapped` every second of the repeated things is a grey disc, which nothing but the others tells the species of.
    All else in the scene stays the same.
    """
    rng = np.random.default_rng([seed, index])

    def skin_of(species: int, radius: float) -> Skin:
        return _skin(rng, texture_of(species), palette_of(species), radius)

    label = index % len(SPECIES)
    kind = _ARRANGEMENTS[rng.integers(len(_ARRANGEMENTS))]
    radius, places = _arrange(rng, kind)
    skin = skin_of(label, radius)
    things = [Thing(label, x, y, radius, angle, mirrored, skin) for x, y, angle, mirrored in places]
    if wrapped:
        grey = float(np.random.default_rng([seed, index, 2]).uniform(90, 165))
        plain = replace(skin, inks=(grey,) * 6)
        things[1::2] = [replace(thing, skin=plain, wrapped=True) for thing in things[1::2]]
    for _ in range(rng.integers(3)):
        other = int(label + rng.integers(1, len(SPECIES))) % len(SPECIES)
        spots = rng.uniform(0.08, 0.92, (6, 2))
        gaps = np.linalg.norm(spots[:, None] - np.array([(t.x, t.y) for t in things]), axis=2).min(
            axis=1
        )
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

"""Content of a scene of Shapes as a function of (seed, index), in relative coordinates."""

import math
from dataclasses import dataclass, replace

import numpy as np

SPECIES = ('starfish', 'flower', 'heart', 'leaf', 'fish', 'moon', 'drop', 'cross', 'butterfly',
           'mushroom')  # fmt: skip
TEXTURES = ('stripes', 'bands', 'checks', 'dots', 'diagonals')
CLASSES = ('background', *SPECIES)
PALETTE = [[222, 222, 216], [228, 87, 86], [245, 160, 60], [214, 39, 120], [84, 162, 75],
           [54, 130, 190], [240, 208, 70], [114, 190, 215], [120, 94, 70], [150, 95, 180],
           [30, 140, 130]]  # fmt: skip
# Two colors per palette.
INKS = np.array([[[214, 60, 58], [250, 222, 178]], [[32, 82, 160], [242, 202, 66]],
                 [[30, 116, 74], [176, 224, 120]], [[112, 50, 140], [244, 160, 196]],
                 [[70, 44, 36], [240, 136, 48]]], np.float32)  # fmt: skip
ARRANGEMENTS = ('row', 'ring', 'grid', 'mirror')
MAX_TILT = 0.2  # radians


def texture_of(species: int) -> int:
    """Return the texture. One neighbor has the same texture, the other the same palette."""
    return species // 2


def palette_of(species: int) -> int:
    return (species + 1) // 2 % 5


@dataclass(frozen=True)
class Skin:
    """How a thing is painted.

    Everything that changes the share of a color varies, so that counting colors does not tell the
    texture or the palette.
    """

    texture: int  # of TEXTURES
    inks: tuple  # dark and light color, RGB each
    phase: tuple  # of the texture across and down, radians
    period: float  # in radii
    balance: float  # added to the texture's -1 … 1: which ink covers more
    contrast: float  # how fast one ink turns into the other
    dome: float  # how much darker one radius away from the middle
    rim: tuple  # thickness in radii, brightness from 0 to 1


@dataclass(frozen=True)
class Thing:
    """One object. Lengths are relative to the side of the image."""

    species: int
    x: float
    y: float
    radius: float
    angle: float  # radians
    mirrored: bool
    skin: Skin
    wrapped: bool = False  # drawn as a plain disc, whatever the species


@dataclass(frozen=True)
class Layout:
    """One scene. `things` are in drawing order; `bar` is x, y, angle, half width, gray level."""

    label: int
    arrangement: str
    things: tuple[Thing, ...]
    bar: tuple | None
    ground: np.ndarray  # float32 [3], RGB of the background


def layout(seed: int, index: int, wrapped: bool = False) -> Layout:
    """Return the layout of the scene (seed, index), whose class is index % 10.

    With `wrapped`, every second of the repeated things is a gray disc, whose species only the other
    things tell. Nothing else changes.
    """
    rng = np.random.default_rng([seed, index])
    label = index % len(SPECIES)
    kind = ARRANGEMENTS[rng.integers(len(ARRANGEMENTS))]
    radius, places = _arrange(rng, kind)
    skin = _draw_skin(rng, label, radius)
    things = [Thing(label, x, y, radius, angle, mirrored, skin) for x, y, angle, mirrored in places]
    if wrapped:
        gray = float(np.random.default_rng([seed, index, 2]).uniform(90, 165))
        plain = replace(skin, inks=(gray,) * 6)
        things[1::2] = [replace(thing, skin=plain, wrapped=True) for thing in things[1::2]]

    for _ in range(rng.integers(3)):  # other species, where there is most room
        other = int(label + rng.integers(1, len(SPECIES))) % len(SPECIES)
        spots = rng.uniform(0.08, 0.92, (6, 2))
        taken = np.array([(thing.x, thing.y) for thing in things])
        gaps = np.linalg.norm(spots[:, None] - taken, axis=2).min(axis=1)
        x, y = spots[gaps.argmax()].tolist()
        small = min(rng.uniform(0.075, 0.1), 0.65 * radius)
        tilt = rng.uniform(-MAX_TILT, MAX_TILT)
        thing = Thing(other, x, y, small, tilt, False, _draw_skin(rng, other, small))
        things.insert(0 if rng.random() < 0.5 else len(things), thing)

    bar = None
    if rng.random() < 0.35:
        x, y = places[rng.integers(len(places))][:2]
        x, y = (np.array([x, y]) + rng.uniform(-0.08, 0.08, 2)).tolist()
        bar = (x, y, rng.uniform(0, math.pi), rng.uniform(0.022, 0.04), rng.uniform(90, 150))
    # One color, dark or pale, all over the image: visible patches tell that of a masked one.
    level = rng.uniform(35, 80) if rng.random() < 0.4 else rng.uniform(175, 230)
    ground = (level + rng.uniform(-30, 25, 3)).astype(np.float32)
    return Layout(label, kind, tuple(things), bar, ground)


def _arrange(rng: np.random.Generator, kind: str) -> tuple[float, list[tuple]]:
    """Return the radius of the repeated things, and x, y, angle and mirrored of each."""
    tilt = rng.uniform(-MAX_TILT, MAX_TILT)
    if kind == 'row':
        number = int(rng.integers(2, 5))
        radius = rng.uniform(0.9, 1.1) * (0.22, 0.185, 0.155)[number - 2]
        step = min(rng.uniform(1.9, 2.4) * radius, (0.96 - 2 * radius) / (number - 1))
        turn = rng.uniform(0, 2 * math.pi)
        off = rng.uniform(-1, 1) * (0.45 - 1.2 * radius)
        slide = rng.uniform(-0.35, 0.35) * (0.98 - 2 * radius - step * (number - 1))
        along = [slide + step * (i - (number - 1) / 2) for i in range(number)]
        return radius, [(*_rotate(x, off, turn), tilt, False) for x in along]
    if kind == 'ring':
        number = int(rng.integers(3, 5))
        radius = rng.uniform(0.9, 1.1) * (0.19, 0.165)[number - 3]
        ring = rng.uniform(min(radius / math.sin(math.pi / number), 0.47 - radius), 0.48 - radius)
        start = rng.uniform(0, 2 * math.pi)
        turns = np.linspace(start, start + 2 * math.pi, number, endpoint=False).tolist()
        return radius, [(*_rotate(ring, 0, turn), tilt, False) for turn in turns]
    if kind == 'grid':
        radius, turn = rng.uniform(0.16, 0.185), rng.uniform(-0.35, 0.35)
        wide, high = (rng.uniform(1.05 * radius, 0.42 - radius, 2) + 0.02).tolist()
        corners = ((-wide, -high), (wide, -high), (-wide, high), (wide, high))
        return radius, [(*_rotate(x, y, turn), tilt, False) for x, y in corners]

    pairs, places = int(rng.integers(1, 3)), []
    axis = math.pi / 2 * int(rng.integers(2)) + rng.uniform(-0.15, 0.15)
    radius = rng.uniform(0.19, 0.214) if pairs == 1 else rng.uniform(0.155, 0.18)
    along = rng.uniform(-0.1, 0.1) if pairs == 1 else rng.uniform(0.17, 0.24)
    for where in (along, -along)[:pairs]:
        away, angle = rng.uniform(1.05 * radius, 0.44 - radius), rng.uniform(-MAX_TILT, MAX_TILT)
        places.append((*_rotate(where, away, axis), angle, False))
        places.append((*_rotate(where, -away, axis), 2 * axis - angle, True))
    return radius, places


def _rotate(x: float, y: float, angle: float) -> tuple[float, float]:
    """Rotate a point around the middle of the image."""
    cos, sin = math.cos(angle), math.sin(angle)
    return 0.5 + cos * x - sin * y, 0.5 + sin * x + cos * y


def _draw_skin(rng: np.random.Generator, species: int, radius: float) -> Skin:
    inks = INKS[palette_of(species)] * rng.uniform(0.85, 1.15, (2, 1)) + rng.uniform(
        -18, 18, (2, 3)
    )
    if rng.random() < 0.5:  # so that the order of the inks tells nothing
        inks = inks[::-1]
    dice = rng.random(8).tolist()
    return Skin(
        texture=texture_of(species),
        inks=tuple(inks.ravel().tolist()),
        phase=(2 * math.pi * dice[0], 2 * math.pi * dice[1]),
        period=(0.104 + 0.011 * dice[2]) / radius,  # about 7 of 64 pixels, less than a patch
        balance=1.6 * dice[3] - 0.8,
        contrast=0.8 + 1.4 * dice[4],
        dome=0.3 * dice[5],
        rim=(0.05 + 0.1 * dice[6], 0.2 + 0.5 * dice[7]),
    )

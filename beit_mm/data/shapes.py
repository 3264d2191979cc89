"""Shapes: an embedded data set of drawn scenes, in ImageNet's and ADE20K's own layouts.

A scene repeats one species two to five times, in a row, a ring, a grid or a mirror image: a hidden object can be told from
the visible ones. Other species and a grey bar lie about as distraction. A species is an outline, a texture and a palette;
each texture and each palette belongs to two species, so neither tells the class. Everything is a pure function of
(seed, index): `layout` decides what is where in relative coordinates, `render` draws that at any side.

    python -m beit_mm.data.shapes OUT --train 12000 --val 2000 --seed 0
"""

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

VERSION = 1  # of what is drawn: a folder drawn by another version is not taken for this one's
SPECIES = ('starfish', 'flower', 'heart', 'leaf', 'fish', 'moon', 'drop', 'cross', 'butterfly', 'mushroom')
TEXTURES = ('stripes', 'rings', 'checks', 'dots', 'swirl')
CLASSES = ('background', *SPECIES)
PALETTE = [[222, 222, 216], [228, 87, 86], [245, 160, 60], [214, 39, 120], [84, 162, 75], [54, 130, 190],
           [240, 208, 70], [114, 190, 215], [120, 94, 70], [150, 95, 180], [30, 140, 130]]  # fmt: skip

# Two colours each. Species i has texture i // 2 and palette (i + 1) // 2: a cycle in which neighbours share one of the two.
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
_GROUNDS = np.array(
    [[206, 196, 176], [172, 186, 196], [178, 190, 172], [198, 184, 190], [160, 164, 172], [208, 206, 200]], np.float32
)
_ARRANGEMENTS = ('row', 'ring', 'grid', 'mirror')
# The first index of each split: any number of images of one never meets another's. Multiples of ten keep index % 10 the class.
_FIRST = dict(train=0, val=10**9, training=2 * 10**9, validation=3 * 10**9)


def texture_of(species: int) -> int:
    return species // 2


def palette_of(species: int) -> int:
    return (species + 1) // 2 % 5


@dataclass(frozen=True)
class Thing:
    """One object; lengths relative to the image's side, angles in radians."""

    species: int
    x: float
    y: float
    radius: float
    angle: float
    mirrored: bool
    skin: tuple  # texture's phase, angle and period (in radii), then the two inks as RGB: equal skins share a sprite


@dataclass(frozen=True)
class Layout:
    """What is where. `things` lie in drawing order, the first lowest; `bar` is x, y, angle, half width, grey level."""

    label: int
    arrangement: str
    things: tuple[Thing, ...]
    bar: tuple | None
    ground: np.ndarray  # float32 [2, 3], RGB of the background's two ends
    relief: np.ndarray  # float32 [7, 7], coarse unevenness of the background
    ripple: tuple  # wave vector (x, y) in cycles per side, phase, amplitude in grey levels
    light: tuple  # gradient (x, y) of the illumination


def _arrange(rng: np.random.Generator, kind: str) -> tuple[float, list[tuple[float, float, float, bool]]]:
    """The main species' radius and its (x, y, angle, mirrored), about the image's middle."""
    tilt = rng.uniform(-0.5, 0.5)
    if kind == 'row':
        number = int(rng.integers(2, 6))
        radius = rng.uniform(0.9, 1.1) * (0.18, 0.16, 0.14, 0.125)[number - 2]
        step = min(rng.uniform(1.9, 2.4) * radius, (0.96 - 2 * radius) / (number - 1))
        along, across = rng.uniform(0, 2 * math.pi), rng.uniform(-1, 1) * (0.45 - 1.2 * radius)
        direction = np.array([math.cos(along), math.sin(along)])
        slack = (0.98 - 2 * radius - step * (number - 1)) / 2 * rng.uniform(-0.7, 0.7)
        twist = rng.choice([0, 0, rng.uniform(-0.5, 0.5)])
        middle = 0.5 + direction * slack + direction[::-1] * [-across, across]
        places = [
            (*(middle + direction * step * (i - (number - 1) / 2)), tilt + twist * i, False) for i in range(number)
        ]
    elif kind == 'ring':
        number = int(rng.integers(3, 6))
        radius = rng.uniform(0.9, 1.1) * (0.16, 0.145, 0.13)[number - 3]
        ring = rng.uniform(min(radius / math.sin(math.pi / number), 0.47 - radius), 0.48 - radius)
        start, shift = rng.uniform(0, 2 * math.pi), rng.uniform(-0.03, 0.03, 2)
        turns = [start + 2 * math.pi * i / number for i in range(number)]
        places = [
            (0.5 + shift[0] + ring * math.cos(t), 0.5 + shift[1] + ring * math.sin(t), t + math.pi / 2 + tilt, False)
            for t in turns
        ]
    elif kind == 'grid':
        radius, turn = rng.uniform(0.13, 0.16), rng.uniform(-0.35, 0.35)
        half = rng.uniform(1.05 * radius, 0.42 - radius, 2) + 0.02
        shift = rng.uniform(-0.05, 0.05, 2)
        cos, sin = math.cos(turn), math.sin(turn)
        corners = [(sx * half[0], sy * half[1]) for sy in (-1, 1) for sx in (-1, 1)]
        places = [
            (0.5 + shift[0] + cos * x - sin * y, 0.5 + shift[1] + sin * x + cos * y, tilt, False) for x, y in corners
        ]
    else:
        pairs = int(rng.integers(1, 3))
        radius = rng.uniform(0.17, 0.2) if pairs == 1 else rng.uniform(0.13, 0.15)
        axis = rng.uniform(0, math.pi)
        cos, sin = math.cos(axis), math.sin(axis)
        first = rng.uniform(-0.1, 0.1) if pairs == 1 else -rng.uniform(0.17, 0.24)
        places = []
        for i in range(pairs):
            along = first if i == 0 else -first
            away = rng.uniform(1.05 * radius, 0.42 - radius) if pairs == 2 else rng.uniform(radius, 0.46 - radius)
            lean = rng.uniform(-0.8, 0.8)
            for side in (1, -1):  # a shape mirrored in y and turned by 2 * axis - a is the image of one turned by a
                x, y = 0.5 + cos * along - sin * away * side, 0.5 + sin * along + cos * away * side
                places.append((x, y, lean if side == 1 else 2 * axis - lean, side == -1))
    return radius, places


def _skin(rng: np.random.Generator, species: int) -> tuple:
    inks = np.clip(_INKS[palette_of(species)] * rng.uniform(0.88, 1.12, (1, 3)) + rng.uniform(-14, 14, (2, 3)), 0, 255)
    if rng.random() < 0.5:  # which ink is the figure and which the ground tells nothing
        inks = inks[::-1]
    phase, angle, period = rng.uniform(0, 2 * math.pi), rng.uniform(0, 2 * math.pi), rng.uniform(0.55, 0.68)
    return (phase, angle, period, *inks.ravel().tolist())


def layout(seed: int, index: int) -> Layout:
    """What the scene (seed, index) holds; its class is index % 10."""
    rng = np.random.default_rng([seed, index])
    label = index % len(SPECIES)
    kind = _ARRANGEMENTS[rng.integers(len(_ARRANGEMENTS))]
    radius, places = _arrange(rng, kind)
    skin = _skin(rng, label)
    things = [Thing(label, x, y, radius, angle, mirrored, skin) for x, y, angle, mirrored in places]
    for _ in range(rng.integers(3)):
        other = int(label + rng.integers(1, len(SPECIES))) % len(SPECIES)
        spots = rng.uniform(0.08, 0.92, (6, 2))
        gaps = np.linalg.norm(spots[:, None] - np.array([(t.x, t.y) for t in things]), axis=2).min(axis=1)
        x, y = spots[gaps.argmax()].tolist()
        small = min(rng.uniform(0.075, 0.1), 0.65 * radius)
        one = Thing(other, x, y, small, rng.uniform(-0.6, 0.6), False, _skin(rng, other))
        things.insert(0 if rng.random() < 0.5 else len(things), one)
    bar = None
    if rng.random() < 0.35:
        x, y = places[rng.integers(len(places))][:2]
        x, y = (np.array([x, y]) + rng.uniform(-0.08, 0.08, 2)).tolist()
        bar = (x, y, rng.uniform(0, math.pi), rng.uniform(0.022, 0.04), rng.uniform(90, 150))
    ends = _GROUNDS[rng.choice(len(_GROUNDS), 2, replace=False)] * rng.uniform(0.88, 1.08)
    wave, phase = rng.uniform(4, 9), rng.uniform(0, math.pi)
    ripple = (wave * math.cos(phase), wave * math.sin(phase), rng.uniform(0, 2 * math.pi), rng.uniform(0, 7))
    turn, strength = rng.uniform(0, 2 * math.pi), rng.uniform(0.05, 0.35)
    light = (strength * math.cos(turn), strength * math.sin(turn))
    relief = rng.normal(0, 7, (7, 7)).astype(np.float32)
    return Layout(label, kind, tuple(things), bar, ends.astype(np.float32), relief, ripple, light)


def _outlines() -> list[np.ndarray]:
    """Float [K, 2] polygon of each species, y down, equal areas, inside a circle of about 1.3 radii."""
    t = np.linspace(0, 2 * math.pi, 96, endpoint=False)
    sin, cos = np.sin(t), np.cos(t)

    def polar(r: np.ndarray) -> np.ndarray:
        return np.stack([r * sin, -r * cos], 1)

    bow = np.linspace(-1, 1, 40)
    arc, cap = np.linspace(0.6, 2 * math.pi - 0.6, 60), np.linspace(math.pi, 2 * math.pi, 40)
    inner = np.linspace(2 * math.pi - 0.86, 0.86, 40)
    a, b = 0.36, 1.0
    shapes = dict(
        starfish=polar(0.42 + 0.58 * np.abs(np.cos(2.5 * t)) ** 1.6),
        flower=polar(0.78 + 0.22 * np.cos(7 * t)),
        heart=np.stack([16 * sin**3, -(13 * cos - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) - 2], 1),
        leaf=np.concatenate(
            [np.stack([0.5 * (1 - bow**2), bow], 1), np.stack([-0.5 * (1 - bow**2), -bow], 1)[1:-1]]
        ),
        fish=np.concatenate(
            [
                np.stack([0.72 * np.cos(arc - math.pi) + 0.28, 0.55 * np.sin(arc - math.pi)], 1),
                [[-0.95, 0.62], [-0.8, 0.0], [-0.95, -0.62]],
            ]
        ),
        moon=np.concatenate(
            [np.stack([np.cos(arc), np.sin(arc)], 1), np.stack([0.22 + 0.8 * np.cos(inner), 0.76 * np.sin(inner)], 1)]
        ),
        drop=np.stack([0.62 * sin * np.sin(t / 2) ** 1.6, -cos + 0.15], 1),
        cross=np.array([[-a, -b], [a, -b], [a, -a], [b, -a], [b, a], [a, a], [a, b], [-a, b], [-a, a], [-b, a], [-b, -a],
                        [-a, -a]]),  # fmt: skip
        butterfly=polar(0.3 + 0.75 * np.abs(np.sin(2 * t)) ** 0.9 * np.where(cos > 0, 1, 0.72)),
        mushroom=np.concatenate(
            [np.stack([np.cos(cap), 0.92 * np.sin(cap)], 1), [[0.98, 0.16], [0.32, 0.16], [0.4, 0.9]],
             [[-0.4, 0.9], [-0.32, 0.16], [-0.98, 0.16]]]
        ),
    )  # fmt: skip
    polygons = []
    for name in SPECIES:
        points = shapes[name]
        points = points - (points.max(0) + points.min(0)) / 2
        area = abs(np.dot(points[:, 0], np.roll(points[:, 1], 1)) - np.dot(points[:, 1], np.roll(points[:, 0], 1))) / 2
        points = points * math.sqrt(2.0 / area)
        polygons.append(points * min(1, 1.3 / np.linalg.norm(points, axis=1).max()))
    return polygons


_OUTLINES = _outlines()


@lru_cache(maxsize=256)
def _axes(side: int, unit: float) -> tuple[np.ndarray, np.ndarray]:
    line = ((np.arange(side) - (side - 1) / 2) / unit).astype(np.float32)
    return line[None], line[:, None]


def _texture(kind: str, u: np.ndarray, v: np.ndarray, phase: float, angle: float, period: float) -> np.ndarray:
    """A figure with zero mean and the sign as its pattern, at coordinates in radii."""
    k = np.float32(2 * math.pi / period)
    x, y = k * (math.cos(angle) * u + math.sin(angle) * v), k * (math.cos(angle) * v - math.sin(angle) * u)
    if kind == 'stripes':
        return np.sin(x + phase)
    if kind == 'rings':
        return np.sin(k * np.sqrt(u * u + v * v) + phase)
    if kind == 'checks':
        return 1.6 * np.sin(0.8 * x + phase) * np.sin(0.8 * y + phase)
    if kind == 'dots':
        return np.cos(x + phase) + np.cos(y + phase) - 0.35
    return np.sin(6 * np.arctan2(v, u) + 3.5 * np.sqrt(u * u + v * v) + phase)


def _sprite(thing: Thing, width: int) -> np.ndarray:
    """uint8 [n, n, 4]: colours everywhere, the outline as alpha, upright, in a canvas `width` pixels wide."""
    unit = thing.radius * width
    side = 2 * math.ceil(1.36 * unit) + 1
    u, v = _axes(side, unit)
    phase, angle, period, *inks = thing.skin
    figure = _texture(TEXTURES[texture_of(thing.species)], u, v, phase, angle, period)
    share = np.clip(0.5 + 1.6 * figure, 0, 1)[..., None]
    low, high = np.array(inks, np.float32).reshape(2, 3)
    dome = (1.1 - 0.28 * (u * u + v * v))[..., None]
    sprite = np.empty((side, side, 4), np.uint8)
    sprite[..., :3] = np.clip((low + (high - low) * share) * dome, 0, 255)
    alpha = np.zeros((side, side), np.uint8)
    points = np.round((_OUTLINES[thing.species] * unit + (side - 1) / 2) * 16).astype(np.int32)
    cv2.fillPoly(alpha, [points], 255, cv2.LINE_AA, 4)
    sprite[..., 3] = alpha
    return sprite


def _place(sprite: np.ndarray, thing: Thing, width: int, shift: float) -> tuple[tuple[slice, slice], np.ndarray] | None:
    """Where the turned sprite falls on the canvas and what falls there; None outside."""
    middle = (sprite.shape[0] - 1) / 2
    x, y = (thing.x + shift) * width - 0.5, (thing.y + shift) * width - 0.5
    left, top = max(0, math.floor(x - middle)), max(0, math.floor(y - middle))
    right, bottom = min(width, math.ceil(x + middle) + 1), min(width, math.ceil(y + middle) + 1)
    if left >= right or top >= bottom:
        return None
    cos, sin, flip = math.cos(thing.angle), math.sin(thing.angle), -1 if thing.mirrored else 1
    turn = np.array([[cos, -sin * flip], [sin, cos * flip]])
    matrix = np.column_stack([turn, [x - left, y - top] - turn @ [middle, middle]])
    return (slice(top, bottom), slice(left, right)), cv2.warpAffine(sprite, matrix, (right - left, bottom - top))


def _ground(plan: Layout, width: int) -> np.ndarray:
    """float32 [W, W, 3]: a gradient between two pale colours with unevenness and faint ripples."""
    line = ((np.arange(width, dtype=np.float32) + 0.5) / width - 0.5).astype(np.float32)
    kx, ky, phase, strength = plan.ripple
    grey = cv2.resize(plan.relief, (width, width), interpolation=cv2.INTER_CUBIC)
    wave = (2 * math.pi * kx * line + phase).astype(np.float32), (2 * math.pi * ky * line).astype(np.float32)
    # sin(a + b) from one-dimensional parts
    grey += strength * (np.sin(wave[0]) * np.cos(wave[1])[:, None] + np.cos(wave[0]) * np.sin(wave[1])[:, None])
    share = (0.5 + line[:, None] + 0 * line)[..., None]
    return plan.ground[0] + (plan.ground[1] - plan.ground[0]) * share + grey[..., None]


def render(plan: Layout, size: int, noise: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a layout at `size` pixels a side.

    Returns:
        RGB uint8 [S, S, 3] and labels uint8 [S, S]: 0 the bar in front (ADE20K's "other"), 1 background, 2 + species.
    """
    over = max(1, math.ceil(128 / size))  # small images are drawn larger and averaged down
    width = size * over
    image, labels = _ground(plan, width), np.ones((width, width), np.uint8)
    sprites = {}
    for thing in plan.things:
        if thing.skin not in sprites:
            sprites[thing.skin] = _sprite(thing, width)
        sprite = sprites[thing.skin]
        shadow, body = _place(sprite[..., 3], thing, width, 0.018), _place(sprite, thing, width, 0)
        if shadow is not None:
            where, alpha = shadow
            image[where] *= 1 - alpha[..., None].astype(np.float32) * np.float32(0.3 / 255)
        if body is not None:
            where, rgba = body
            image[where] += (rgba[..., :3] - image[where]) * (rgba[..., 3:].astype(np.float32) * np.float32(1 / 255))
            labels[where][rgba[..., 3] > 127] = 2 + thing.species
    if plan.bar is not None:
        x, y, angle, half, grey = plan.bar
        along, across = np.array([math.cos(angle), math.sin(angle)]) * 2, np.array([-math.sin(angle), math.cos(angle)])
        middle = np.array([x, y])
        for near, far, level in ((-1, 1, 0.82), (-0.7, 0.5, 1.0), (-0.4, 0.0, 1.12)):  # darker rims, a lit ridge
            edges = [middle - along + across * near * half, middle + along + across * near * half,
                     middle + along + across * far * half, middle - along + across * far * half]  # fmt: skip
            points = np.round((np.array(edges) * width - 0.5) * 16).astype(np.int32)
            cv2.fillPoly(image, [points], (grey * level, grey * level * 0.97, grey * level * 0.92), cv2.LINE_8, 4)
            if near == -1:
                cv2.fillPoly(labels, [points], 0, cv2.LINE_8, 4)
    if over > 1:
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
        labels = np.ascontiguousarray(labels[over // 2 :: over, over // 2 :: over])
    line = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    light = 1 + np.float32(plan.light[0]) * line + np.float32(plan.light[1]) * line[:, None]
    image *= light[..., None]
    image += noise.normal(0, 2.5, (size, size, 1)).astype(np.float32)
    return np.clip(image, 0, 255).astype(np.uint8), labels


def scene(seed: int, index: int, size: int) -> tuple[np.ndarray, np.ndarray, int]:
    """RGB uint8 [S, S, 3], labels uint8 [S, S] (see `render`) and the class 0..9 of the scene (seed, index).

    The size is resolution only: the same things lie at the same places.
    """
    if seed < 0 or index < 0:
        raise ValueError(f'a scene needs seed ≥ 0 and index ≥ 0, got seed {seed} and index {index}')
    if size < 16:
        raise ValueError(f'a scene needs a side of at least 16 pixels, got {size}; objects are told apart from 64 on')
    plan = layout(seed, index)
    return *render(plan, size, np.random.default_rng([seed, index, 1])), plan.label


def _wnid(label: int) -> str:
    return f'n{label:08d}'  # sorts as the classes do: a reader without the list counts the same ids


def _name(split: str, number: int, label: int) -> str:
    if split in ('train', 'val'):
        return f'{_wnid(label)}/shapes_{split}_{number:08d}.JPEG'
    return f'ADE_{"train" if split == "training" else "val"}_{number:08d}'


def _draw(task: tuple[Path, str, int, int, int, int]) -> int:
    """Write the images first … last − 1 of a split; how many."""
    out, split, first, last, seed, size = task
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    colours = bytes([0, 0, 0, *(value for colour in PALETTE for value in colour)])
    for number in range(first, last):
        image, labels, label = scene(seed, _FIRST[split] + number, size)
        name = _name(split, number, label)
        if split in ('train', 'val'):
            path = out / 'imagenet' / split / name
        else:
            path = out / 'ade20k' / 'images' / split / f'{name}.jpg'
            indexed = Image.fromarray(labels)
            indexed.putpalette(colours)
            indexed.save(out / 'ade20k' / 'annotations' / split / f'{name}.png')
        path.write_bytes(cv2.imencode('.jpg', image[..., ::-1], quality)[1])
    return last - first


def _run(tasks: list, jobs: int) -> Iterator[int]:
    if jobs == 1:
        yield from map(_draw, tasks)
        return
    with multiprocessing.get_context('spawn').Pool(jobs, cv2.setNumThreads, (1,)) as pool:
        yield from pool.imap_unordered(_draw, tasks)


def write(
    out: str | Path,
    train: int,
    val: int,
    seed: int = 0,
    size: int = 64,
    segmentation_train: int | None = None,
    segmentation_val: int | None = None,
    labels: tuple[int, ...] = (),
    jobs: int | None = None,
) -> bool:
    """Draw a data set: `out/imagenet` (folders and `meta`) and `out/ade20k` (images, annotations).

    All splits are disjoint scenes. The files are the same for any number of jobs.

    Args:
        segmentation_train: images of `ade20k/…/training`; a tenth of `train` unless told.
        segmentation_val: images of `ade20k/…/validation`; half of `val` unless told.
        labels: for each n the lists `imagenet/meta/train_n.txt` and `ade20k/training_n.txt` of the first n images
            (classes alternate); a list is left out where the split is smaller than n.
        jobs: processes; one a core unless told.

    Returns:
        False where the finished data set was there already.

    Raises:
        ValueError: `out` holds something else, or a number makes no sense.
    """
    out = Path(out)
    counts = dict(train=train, val=val)
    counts['training'] = train // 10 if segmentation_train is None else segmentation_train
    counts['validation'] = val // 2 if segmentation_val is None else segmentation_val
    for split, count in counts.items():
        if not 0 <= count <= 10**8:
            raise ValueError(f'{split}: {count} images asked for, 0 to 10^8 are possible')
    for number in labels:
        if not 0 < number <= max(train, counts['training']):
            raise ValueError(
                f'--labels {number}: needs 1 to {max(train, counts["training"])}, the larger training split'
            )
    jobs = jobs or os.cpu_count() or 1
    scene(seed, 0, size)  # a bad seed or size is told before anything is written

    wanted = dict(version=VERSION, seed=seed, size=size, **counts, labels=sorted(set(labels)))
    done, begun = out / 'shapes.json', out / 'shapes.unfinished.json'
    for manifest in (done, begun):
        if manifest.exists() and json.loads(manifest.read_text()) != wanted:
            raise ValueError(
                f'{out} holds another data set ({manifest.name}: {manifest.read_text().strip()}; wanted: '
                f'{json.dumps(wanted)}): choose another folder or delete this one'
            )
    if done.exists():
        print(f'{out} holds this data set already, nothing drawn', file=sys.stderr)
        return False
    if not begun.exists() and out.exists() and any(out.iterdir()):
        raise ValueError(f'{out} is not empty and not drawn by this command: choose another folder or delete this one')

    for split in ('train', 'val'):
        for label in range(len(SPECIES)):
            (out / 'imagenet' / split / _wnid(label)).mkdir(parents=True, exist_ok=True)
    (out / 'imagenet' / 'meta').mkdir(parents=True, exist_ok=True)
    for kind in ('images', 'annotations'):
        for split in ('training', 'validation'):
            (out / 'ade20k' / kind / split).mkdir(parents=True, exist_ok=True)
    begun.write_text(json.dumps(wanted) + '\n')

    tasks = [
        (out, split, first, min(first + 200, count), seed, size)
        for split, count in counts.items()
        for first in range(0, count, 200)
    ]
    total, drawn, start, told = sum(counts.values()), 0, time.monotonic(), -math.inf
    for number in _run(tasks, min(jobs, max(1, len(tasks)))):
        drawn += number
        now = time.monotonic()
        if now - told >= 2 or drawn == total:
            told, rate = now, drawn / max(now - start, 1e-9)
            print(f'{drawn}/{total} images, {rate:.0f}/s, ETA {(total - drawn) / rate:.0f} s', file=sys.stderr)

    def listing(split: str, count: int) -> str:
        named = [(_name(split, i, i % len(SPECIES)), i % len(SPECIES)) for i in range(count)]
        return ''.join(f'{name} {label}\n' if split in ('train', 'val') else f'{name}\n' for name, label in named)

    meta = out / 'imagenet' / 'meta'
    (meta / 'classes.txt').write_text('\n'.join(SPECIES) + '\n')
    for split in ('train', 'val'):
        (meta / f'{split}.txt').write_text(listing(split, counts[split]))
    for number in labels:
        for path, split in (
            (meta / f'train_{number}.txt', 'train'),
            (out / f'ade20k/training_{number}.txt', 'training'),
        ):
            if number <= counts[split]:
                path.write_text(listing(split, number))
    os.replace(begun, done)
    return True


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        'python -m beit_mm.data.shapes', description='Draw the data set Shapes in ImageNet and ADE20K layout.'
    )
    parser.add_argument('out', type=Path, metavar='OUT', help='folder to write: imagenet/ and ade20k/ in it')
    parser.add_argument('--train', type=int, required=True, help='images to train on (imagenet)')
    parser.add_argument('--val', type=int, required=True, help='images to validate on (imagenet)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--size', type=int, default=64, help='pixels a side')
    parser.add_argument(
        '--segmentation-train', type=int, help='images to train on (ade20k); default: a tenth of --train'
    )
    parser.add_argument('--segmentation-val', type=int, help='images to validate on (ade20k); default: half of --val')
    parser.add_argument('--labels', type=int, nargs='+', default=[], help='also lists of the first N training images')
    parser.add_argument('--jobs', type=int, help='processes; default: one a core')
    try:
        write(**vars(parser.parse_args(arguments)))
    except ValueError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())

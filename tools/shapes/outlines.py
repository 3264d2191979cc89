"""Outlines of the species of Shapes as polygons."""

import math

import numpy as np

from .layout import SPECIES


def _polar(radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], 1)


def _arc(first: float, last: float, width: float, height: float, x: float = 0) -> np.ndarray:
    angle = np.linspace(first, last, 50)
    return np.stack([x + width * np.cos(angle), height * np.sin(angle)], 1)


def _outlines() -> list[np.ndarray]:
    """Return a polygon for each species and a disc, f64 [K, 2] in radii, y down.

    Areas are equal as far as a largest radius of 1.3 allows.
    """
    t, s = np.linspace(0, 2 * math.pi, 96, endpoint=False), np.linspace(-1, 1, 40)[:, None]
    sin, cos, pi, a = np.sin(t), np.cos(t), math.pi, 0.36
    heart_y = 5 * np.cos(2 * t) + 2 * np.cos(3 * t) + np.cos(4 * t) - 13 * cos
    leaf = [np.hstack([(1 - s * s) / 2, s]), np.hstack([(s * s - 1) / 2, -s])[1:-1]]
    wings = np.abs(np.sin(2 * t)) ** 0.9 * np.where(cos > 0, 1, 0.72)
    half_cross = np.array([(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a)])
    stem = [(0.98, 0.16), (0.32, 0.16), (0.4, 0.9), (-0.4, 0.9), (-0.32, 0.16), (-0.98, 0.16)]
    tail = [[-0.95, 0.62], [-0.8, 0], [-0.95, -0.62]]
    shapes = dict(
        starfish=_polar(0.42 + 0.58 * np.abs(np.cos(2.5 * t)) ** 1.6, t),
        flower=_polar(0.78 + 0.22 * np.cos(7 * t), t),
        heart=np.stack([16 * sin**3, heart_y], 1),
        leaf=np.concatenate(leaf),
        fish=np.concatenate([_arc(0.6 - pi, pi - 0.6, 0.72, 0.55, 0.28), tail]),
        moon=np.concatenate([_arc(0.6, 2 * pi - 0.6, 1, 1), _arc(2 * pi - 1, 1, 0.62, 0.67, 0.42)]),
        drop=np.stack([0.62 * sin * np.sin(t / 2) ** 1.6, -cos], 1),
        cross=np.concatenate([half_cross, -half_cross]),
        butterfly=_polar(0.3 + 0.75 * wings, t),
        mushroom=np.concatenate([_arc(pi, 2 * pi, 1, 0.92), stem]),
        disc=_polar(np.ones_like(t), t),
    )
    polygons = []
    for name in (*SPECIES, 'disc'):
        points = shapes[name] - (shapes[name].max(0) + shapes[name].min(0)) / 2
        x, y = points.T
        points *= math.sqrt(2 / (abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2))
        polygons.append(points * min(1, 1.3 / np.linalg.norm(points, axis=1).max()))
    return polygons


def _inward(points: np.ndarray) -> np.ndarray:
    """Return for each corner the step that moves both of its sides inward by 1."""
    sides = np.roll(points, -1, 0) - points
    lengths = np.linalg.norm(sides, axis=1, keepdims=True)
    normals = np.stack([-sides[:, 1], sides[:, 0]], 1) / lengths
    x, y = points.T
    normals *= np.sign(x @ np.roll(y, -1) - y @ np.roll(x, -1))
    before = np.roll(normals, 1, 0)
    return (normals + before) / np.maximum(1 + (normals * before).sum(1, keepdims=True), 0.3)


DISC = len(SPECIES)  # place of the disc
OUTLINES = _outlines()
INWARD = [_inward(outline) for outline in OUTLINES]
REACH = [float(np.linalg.norm(outline, axis=1).max()) + 0.07 for outline in OUTLINES]  # with rim

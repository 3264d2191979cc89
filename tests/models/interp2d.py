"""Makes interp2d.json: what `scipy.interpolate.interp2d`, gone since SciPy 1.14, made of a relative position table.

    pip install 'scipy==1.13.1' 'numpy<2' && python tests/models/interp2d.py

The resize is the one that the official code describes (`run_class_finetuning.py`, also its segmentation code): the known
offsets lie at 1, 1 + q, 1 + q + q², … with q found by bisection to 1e-6, and a cubic interp2d is read at whole offsets.
"""

import json
from pathlib import Path

import numpy as np
from scipy import interpolate

SIZES = [
    (14, 24),
    (14, 32),
    (14, 40),
    (8, 14),
    (24, 40),
]  # patches a side; 224 → 384, 512, 640 px first


def table(side: int) -> np.ndarray:
    """Like a trained one: near offsets count most; not symmetric."""
    y, x = np.meshgrid(np.arange(1.0 - side, side), np.arange(1.0 - side, side), indexing='ij')
    return (
        2 * np.exp(-(y**2 + x**2) / 8)
        + np.sin(0.7 * y) * np.cos(0.4 * x + 0.3)
        + 0.05 * y
        - 0.03 * x
    )


def resize(values: np.ndarray, source: int, target: int) -> np.ndarray:
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        reach = (1 - q ** (source - 1)) / (1 - q)  # how far the outermost known offset lies
        low, high = (low, q) if reach > target - 1 else (q, high)
    distance = np.cumsum(q ** np.arange(source - 1))
    known = [*-distance[::-1], 0, *distance]
    return interpolate.interp2d(known, known, values, kind='cubic')(
        *[np.arange(1.0 - target, target)] * 2
    )


if __name__ == '__main__':
    import scipy

    cases = []
    for source, target in SIZES:
        resized = resize(table(source), source, target)
        rows = (
            np.linspace(0, 2 * target - 2, 9).round().astype(int)
        )  # enough to tell; all would be 100 kB
        cases.append(
            dict(
                source=source,
                target=target,
                rows=rows.tolist(),
                values=resized[rows].round(9).tolist(),
            )
        )
    out = dict(scipy=scipy.__version__, cases=cases)
    Path(__file__).with_suffix('.json').write_text(json.dumps(out) + '\n')

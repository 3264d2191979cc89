"""Write interp2d.json: tables resized by `scipy.interpolate.interp2d`, removed in SciPy 1.14.

    pip install 'scipy==1.13.1' 'numpy<2' && python tests/models/interp2d.py

The official code (`run_class_finetuning.py`) finds q by bisection to 1e-6, places the known offsets
at 1, 1 + q, 1 + q + q², …, and reads a cubic interp2d at integer offsets.
"""

import json
from pathlib import Path

import numpy as np
from scipy import interpolate

SIZES = [(14, 24), (14, 32), (14, 40), (8, 14), (24, 40)]  # patches per side


def make_table(side: int) -> np.ndarray:
    """Return a table like a trained one: near offsets count most, and it is not symmetric."""
    y, x = np.meshgrid(np.arange(1.0 - side, side), np.arange(1.0 - side, side), indexing='ij')
    waves = np.sin(0.7 * y) * np.cos(0.4 * x + 0.3)
    return 2 * np.exp(-(y**2 + x**2) / 8) + waves + 0.05 * y - 0.03 * x


def resize(values: np.ndarray, source: int, target: int) -> np.ndarray:
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        outermost = (1 - q ** (source - 1)) / (1 - q)
        low, high = (low, q) if outermost > target - 1 else (q, high)
    distance = np.cumsum(q ** np.arange(source - 1))
    known = [*-distance[::-1], 0, *distance]
    wanted = np.arange(1.0 - target, target)
    return interpolate.interp2d(known, known, values, kind='cubic')(wanted, wanted)


if __name__ == '__main__':
    import scipy

    cases = []
    for source, target in SIZES:
        rows = np.linspace(0, 2 * target - 2, 9).round().astype(int)
        values = resize(make_table(source), source, target)[rows].round(9)
        sizes = dict(source=source, target=target)
        cases.append(sizes | dict(rows=rows.tolist(), values=values.tolist()))
    out = dict(scipy=scipy.__version__, cases=cases)
    Path(__file__).with_suffix('.json').write_text(json.dumps(out) + '\n')

"""20 000 masks of the paper's setting, compared with 20 000 masks of the official sampling.

`python tests/data/test_mask_statistics.py` prints the table of docs/design.md.
"""

import math
import random
from types import SimpleNamespace

import numpy as np
import pytest

from beit_mm.data import blockwise_mask as module

pytestmark = pytest.mark.any_stack

SIDE, NUM_MASKED, MIN_BLOCK, DRAWS = 14, 75, 16, 20_000
EDGES = np.log(
    [1e-9, 0.28, 0.45, 0.65, 0.95, 1 / 0.95, 1 / 0.65, 1 / 0.45, 1 / 0.28, 1e9]
)  # of height / width
Block = tuple[int, int]  # height, width


def official(rng: random.Random) -> tuple[np.ndarray, list[Block]]:
    """Draw a mask by the official rules, written independently: Python's generator, a set of places."""
    hidden, blocks = set(), []
    while len(hidden) < NUM_MASKED:
        remaining = NUM_MASKED - len(hidden)
        for _ in range(10):
            area = rng.uniform(MIN_BLOCK, remaining)  # also when `remaining` is the smaller
            aspect = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if height >= SIDE or width >= SIDE:
                continue
            top, left = rng.randint(0, SIDE - height), rng.randint(0, SIDE - width)
            new = {
                (y, x) for y in range(top, top + height) for x in range(left, left + width)
            } - hidden
            if 1 <= len(new) <= remaining:
                hidden |= new
                blocks.append((height, width))
                break
        else:
            break
    mask = np.zeros((SIDE, SIDE), bool)
    mask[tuple(zip(*hidden, strict=True))] = True
    return mask, blocks


class Canvas(np.ndarray):
    """Mask that records the shape of each block that is painted into it."""

    blocks: list[Block]

    def __array_finalize__(self, parent):
        self.blocks = getattr(parent, 'blocks', [])

    def __setitem__(self, key, value):
        self.blocks.append(self.shape)
        super().__setitem__(key, value)


def ours(rng: np.random.Generator) -> tuple[np.ndarray, list[Block]]:
    mask = module.blockwise_mask(rng, (SIDE, SIDE), NUM_MASKED, MIN_BLOCK)
    return np.asarray(mask), mask.blocks


def features(masks: np.ndarray, blocks: list[list[Block]]) -> dict[str, np.ndarray]:
    """Return features of each mask, [n, size]. The standard error of a mean is std / √n."""
    n, hidden = len(masks), masks.sum((1, 2))
    owner = np.repeat(np.arange(n), [len(own) for own in blocks])
    height, width = np.array([block for own in blocks for block in own]).T
    shape, shapes = np.digitize(np.log(height / width), EDGES) - 1, len(EDGES) - 1
    edges = (masks[:, 1:] != masks[:, :-1]).sum((1, 2)) + (masks[:, :, 1:] != masks[:, :, :-1]).sum(
        (1, 2)
    )
    number = np.bincount(owner, minlength=n)
    rows, columns = masks.mean(2), masks.mean(1)
    found = dict(
        hidden=hidden,
        exact=hidden == NUM_MASKED,
        counts=np.stack([hidden < 66, *(hidden == c for c in range(66, NUM_MASKED))], 1),
        cells=masks.reshape(n, -1),
        rows=rows,
        columns=columns,
        border=np.stack([rows[:, 0], rows[:, -1], columns[:, 0], columns[:, -1]]).mean(0),
        edges=edges,
        blocks=number,
        block_counts=np.stack([number == k for k in range(2, 12)], 1),
        small_blocks=np.bincount(owner, height * width < MIN_BLOCK, n),
        aspects=np.bincount(owner * shapes + shape, minlength=n * shapes).reshape(n, shapes),
    )
    return {name: values.reshape(n, -1).astype(float) for name, values in found.items()}


def sample(draw, rng) -> dict[str, np.ndarray]:
    masks, blocks = zip(*(draw(rng) for _ in range(DRAWS)), strict=True)
    return features(np.stack(masks), blocks)


def both() -> tuple[dict, dict]:
    with pytest.MonkeyPatch.context() as patch:
        canvas = dict(zeros=lambda *args: np.zeros(*args).view(Canvas))
        patch.setattr(module, 'np', SimpleNamespace(**vars(np) | canvas))
        mine = sample(ours, np.random.default_rng(0))
    return mine, sample(official, random.Random(0))


def error(values: np.ndarray) -> np.ndarray:
    return values.std(0) / math.sqrt(len(values))


@pytest.fixture(scope='module')
def samples() -> tuple[dict, dict]:
    return both()


# Of 500 000 masks that the official file itself, beit/masking_generator.py, drew: (mean, its standard error).
MEASURED = {
    ('hidden', 0): (74.47127, 0.00140),
    ('exact', 0): (0.66535, 0.00067),
    ('blocks', 0): (4.11841, 0.00206),
    ('border', 0): (0.13323, 0.00013),
    ('edges', 0): (40.14507, 0.01076),
    ('cells', 0): (0.04161, 0.00028),  # a corner
    ('cells', 7 * SIDE + 7): (0.71595, 0.00064),
}


@pytest.mark.parametrize(('name', 'place'), MEASURED)
def test_means_are_those_that_the_official_file_gave(samples, name, place):
    """Holds for our masks and for those of `official`, within four standard errors."""
    mean, spread = MEASURED[name, place]
    for values in (one[name][:, place] for one in samples):
        assert values.mean() == pytest.approx(mean, abs=4 * math.hypot(error(values), spread))


def test_every_statistic_is_the_official_one(samples):
    """Counts, each cell, row and column, number, size and aspect of the blocks: some 280 means at once.

    A difference of two means, in its standard errors, exceeds 4.5 by chance once in 150 000 times, and has a mean square of 1.
    """
    mine, theirs = samples
    assert {name: v.shape for name, v in mine.items()} == {
        name: v.shape for name, v in theirs.items()
    }
    z = {}
    for name in mine:
        difference = mine[name].mean(0) - theirs[name].mean(0)
        spread = np.hypot(error(mine[name]), error(theirs[name]))
        assert not difference[spread == 0].any(), name
        z[name] = difference[spread > 0] / spread[spread > 0]
    assert {name: abs(v).max() for name, v in z.items() if abs(v).max() > 4.5} == {}
    together = np.concatenate(list(z.values()))
    assert len(together) > 250 and np.square(together).mean() < 1.5


def test_the_fewest_hidden_patches_are_as_few_as_officially(samples):
    mine, theirs = (one['hidden'][:, 0] for one in samples)
    assert mine.max() == theirs.max() == NUM_MASKED
    assert 60 <= mine.min() <= 67 and 60 <= theirs.min() <= 67  # the official file's 500 000: 61


def test_no_border_is_dead(samples):
    """Each patch is masked sometimes, and all four sides as often as in the official code."""
    mine, _ = samples
    assert mine['cells'].mean(0).min() > 0.03  # the corners: 0.04
    rows, columns = mine['rows'], mine['columns']
    sides = [rows[:, 0], rows[:, -1], columns[:, 0], columns[:, -1]]
    assert all(abs(side.mean() - MEASURED['border', 0][0]) < 4 * error(side) for side in sides)


ROWS = [
    ('patches hidden', 'hidden', 0),
    ('masks of exactly 75', 'exact', 0),
    ('edges between hidden and shown', 'edges', 0),
    ('blocks a mask', 'blocks', 0),
    ('of them under 16 patches', 'small_blocks', 0),
    ('share hidden: border', 'border', 0),
    *((f'share hidden: row {i + 1}', 'rows', i) for i in (0, 3, 6, 10, 13)),
    ('share hidden: corner', 'cells', 0),
    ('share hidden: middle', 'cells', 7 * SIDE + 7),
    *((f'masks of {k} blocks', 'block_counts', k - 2) for k in range(2, 8)),
    *(
        (f'blocks a mask of height / width {low:.2f} … {high:.2f}', 'aspects', i)
        for i, (low, high) in enumerate(zip(np.exp(EDGES), np.exp(EDGES[1:]), strict=False))
        if 0 < i < len(EDGES) - 2
    ),
]


def table() -> str:
    mine, theirs = both()
    lines = ['| of 20 000 masks | here | official sampling |', '|---|---|---|']
    for title, name, i in ROWS:
        cells = [
            f'{one[name][:, i].mean():.4f} ± {error(one[name])[i]:.4f}' for one in (mine, theirs)
        ]
        lines.append(f'| {title} | {" | ".join(cells)} |')
    lines.append(f'| fewest hidden | {mine["hidden"].min():.0f} | {theirs["hidden"].min():.0f} |')
    return '\n'.join(lines)


if __name__ == '__main__':
    print(table())

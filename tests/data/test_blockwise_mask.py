"""20 000 masks of the paper's setting have the statistics of the official sampling.

`python tests/data/test_blockwise_mask.py` prints the table of docs/design.md.
"""

import math
import random
from types import SimpleNamespace

import numpy as np
import pytest

from beit_mm.data import blockwise_mask as module
from beit_mm.data.blockwise_mask import (
    BlockwiseMask,
    RandomMask,
    blockwise_mask,
    exact_blockwise_mask,
    random_mask,
)

pytestmark = pytest.mark.any_stack

SIDE, NUM_MASKED, MIN_BLOCK, DRAWS = 14, 75, 16, 20_000
EDGES = np.log(  # of height / width
    [1e-9, 0.28, 0.45, 0.65, 0.95, 1 / 0.95, 1 / 0.65, 1 / 0.45, 1 / 0.28, 1e9]
)
Block = tuple[int, int]  # height, width


def official(rng: random.Random) -> tuple[np.ndarray, list[Block]]:
    """Draw a mask by the official rules, written independently: Python's generator, a set of places."""
    masked, blocks = set(), []
    while len(masked) < NUM_MASKED:
        remaining = NUM_MASKED - len(masked)
        for _ in range(10):
            area = rng.uniform(MIN_BLOCK, remaining)  # also when `remaining` is the smaller
            aspect = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if height >= SIDE or width >= SIDE:
                continue
            top, left = rng.randint(0, SIDE - height), rng.randint(0, SIDE - width)
            block = {(y, x) for y in range(top, top + height) for x in range(left, left + width)}
            if 1 <= len(block - masked) <= remaining:
                masked |= block
                blocks.append((height, width))
                break
        else:
            break
    mask = np.zeros((SIDE, SIDE), bool)
    mask[tuple(zip(*masked, strict=True))] = True
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
    mask = blockwise_mask(rng, (SIDE, SIDE), NUM_MASKED, MIN_BLOCK)
    return np.asarray(mask), mask.blocks


def features(masks: np.ndarray, blocks: list[list[Block]]) -> dict[str, np.ndarray]:
    """Return features of each mask, [n, size]. The standard error of a mean is std / √n."""
    n, masked = len(masks), masks.sum((1, 2))
    owner = np.repeat(np.arange(n), [len(own) for own in blocks])
    height, width = np.array([block for own in blocks for block in own]).T
    shape, shapes = np.digitize(np.log(height / width), EDGES) - 1, len(EDGES) - 1
    vertical, horizontal = masks[:, 1:] != masks[:, :-1], masks[:, :, 1:] != masks[:, :, :-1]
    number = np.bincount(owner, minlength=n)
    rows, columns = masks.mean(2), masks.mean(1)
    found = dict(
        masked=masked,
        exact=masked == NUM_MASKED,
        counts=np.stack([masked < 66, *(masked == c for c in range(66, NUM_MASKED))], 1),
        cells=masks.reshape(n, -1),
        rows=rows,
        columns=columns,
        border=np.stack([rows[:, 0], rows[:, -1], columns[:, 0], columns[:, -1]]).mean(0),
        edges=vertical.sum((1, 2)) + horizontal.sum((1, 2)),
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


samples = pytest.fixture(scope='module')(both)


def error(values: np.ndarray) -> np.ndarray:
    return values.std(0) / math.sqrt(len(values))


# Of 500 000 masks that the official file itself, beit/masking_generator.py, drew: (mean, its standard error).
MEASURED = {
    ('masked', 0): (74.47127, 0.00140),
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

    A difference of two means, in its standard errors, exceeds 4.5 by chance once in 150 000 times,
    and has a mean square of 1.
    """
    mine, theirs = samples
    z = {}
    for name in mine:
        difference = mine[name].mean(0) - theirs[name].mean(0)
        spread = np.hypot(error(mine[name]), error(theirs[name]))
        assert not difference[spread == 0].any(), name
        z[name] = difference[spread > 0] / spread[spread > 0]
    assert {name: abs(v).max() for name, v in z.items() if abs(v).max() > 4.5} == {}
    together = np.concatenate(list(z.values()))
    assert len(together) > 250 and np.square(together).mean() < 1.5
    assert (
        mine['masked'].max() == NUM_MASKED and mine['masked'].min() >= 60
    )  # the official file: 61


@pytest.mark.parametrize(('grid', 'num_masked'), [((14, 14), 75), ((1, 7), 3), ((2, 3), 6)])
def test_random_masks_are_exact_and_uniform(grid, num_masked):
    rng = np.random.default_rng(0)
    many = np.stack([random_mask(rng, grid, num_masked) for _ in range(2000)])
    assert (many.sum((1, 2)) == num_masked).all()
    share = num_masked / math.prod(grid)
    assert abs(many.mean(0) - share).max() <= 4.5 * math.sqrt(share * (1 - share) / 2000)
    both = (many[:, 0, 0] & many[:, -1, -1]).mean()  # without replacement
    pair = share * (num_masked - 1) / (math.prod(grid) - 1)
    assert abs(both - pair) <= 4 * math.sqrt(pair * (1 - pair) / 2000)


@pytest.mark.parametrize('transform', [BlockwiseMask(), BlockwiseMask(exact=True), RandomMask()])
def test_transforms_follow_numpys_global_state_alone(transform):
    found = []
    for seed in (1, 1, 2):
        np.random.seed(seed)
        random.seed(len(found))
        found.append(transform({})['mask'])
    assert np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])


def test_exact_masks_have_num_masked_patches():
    rng = np.random.default_rng(0)
    found = [exact_blockwise_mask(rng, (14, 14), 75).sum() for _ in range(100)]
    assert set(found) == {75}


def test_the_key_of_a_mask_is_four_draws_of_32_bits():
    np.random.seed(3)
    key = np.random.randint(2**32, size=4, dtype=np.uint32)
    expected = np.random.default_rng(key).random(), np.random.rand()
    np.random.seed(3)
    assert (module._generator().random(), np.random.rand()) == expected


def print_table() -> None:
    names = {('cells', 0): 'share masked: corner', ('cells', 7 * SIDE + 7): 'share masked: middle'}
    samples = both()
    for (name, i), official_file in MEASURED.items():
        cells = [(one[name][:, i].mean(), error(one[name])[i]) for one in samples]
        texts = [f'{mean:.4f} ± {spread:.4f}' for mean, spread in (*cells, official_file)]
        print(f'| {names.get((name, i), name)} | {" | ".join(texts)} |')


if __name__ == '__main__':
    print_table()

"""Masks: any grid, an end for every input, randomness. test_mask_statistics.py has the statistics."""

import math
import random

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

DRAWS = 3000


@pytest.fixture(scope='module')
def masks() -> np.ndarray:
    """The paper's: 75 of 14×14, blocks of 16 or more."""
    rng = np.random.default_rng(0)
    return np.stack([blockwise_mask(rng, (14, 14), 75) for _ in range(DRAWS)])


def test_a_mask_and_its_mirror_images_are_equally_likely(masks):
    for other in (masks[:, ::-1], masks[:, :, ::-1], masks.transpose(0, 2, 1)):
        difference = masks.mean(0) - other.mean(0)
        assert abs(difference).max() < 5 * math.sqrt(2 * 0.25 / DRAWS)


# -- every input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'grid', [(1, 1), (1, 9), (9, 1), (2, 2), (2, 30), (3, 5), (8, 8), (14, 14), (5, 40)]
)
@pytest.mark.parametrize('share', [0.0, 0.1, 0.4, 1.0])
@pytest.mark.parametrize('least', [1, 4, 16])
def test_any_grid_ends_with_at_most_num_masked(grid, share, least, monkeypatch):
    """Each block masks one more patch, so there are at most num_masked + 1 rounds."""
    num_masked = max(1, round(share * grid[0] * grid[1]))
    rounds, original = [], np.random.default_rng(0)

    class Counting:
        def random(self, size):
            rounds.append(size)
            return original.random(size)

    for _ in range(20):
        rounds.clear()
        mask = blockwise_mask(Counting(), grid, num_masked, least)
        assert mask.shape == grid and mask.dtype == bool and mask.sum() <= num_masked
        assert len(rounds) <= num_masked + 1


def test_a_grid_of_one_row_has_no_strictly_smaller_block():
    assert blockwise_mask(np.random.default_rng(0), (1, 14), 5).sum() == 0


@pytest.mark.parametrize(
    ('grid', 'num_masked', 'least'),
    [((14, 14), 75, 16), ((8, 8), 25, 4), ((7, 10), 30, 9), ((3, 3), 4, 1)],
)
def test_exact_masks_have_num_masked_patches(grid, num_masked, least):
    rng = np.random.default_rng(0)
    assert {int(exact_blockwise_mask(rng, grid, num_masked, least).sum()) for _ in range(100)} == {
        num_masked
    }


def test_exact_masks_are_the_masks_that_happen_to_be_exact(masks):
    rng = np.random.default_rng(1)
    exact = np.stack([exact_blockwise_mask(rng, (14, 14), 75) for _ in range(1000)])
    chosen = masks[masks.sum((1, 2)) == 75]
    z = (exact.mean(0) - chosen.mean(0)) / np.sqrt(0.25 / len(exact) + 0.25 / len(chosen))
    assert abs(z).max() < 4.5


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


# -- randomness and the transforms -------------------------------------------------------------------------------------


@pytest.mark.parametrize('sample', [blockwise_mask, exact_blockwise_mask, random_mask])
def test_a_mask_is_a_function_of_the_generators_state(sample):
    first, second, third = (sample(np.random.default_rng(seed), (14, 14), 75) for seed in (1, 1, 2))
    assert np.array_equal(first, second) and not np.array_equal(first, third)


@pytest.mark.parametrize('transform', [BlockwiseMask(), BlockwiseMask(exact=True), RandomMask()])
def test_transforms_follow_numpys_global_state_alone(transform):
    found = []
    for seed in (1, 1, 2):
        np.random.seed(seed)
        random.seed(len(found))
        found.append(transform(dict(img='kept')))
    assert found[0]['img'] == 'kept' and found[0]['mask'].shape == (14, 14)
    assert np.array_equal(found[0]['mask'], found[1]['mask']) and not np.array_equal(
        found[0]['mask'], found[2]['mask']
    )


def test_the_key_of_a_mask_is_four_draws_of_32_bits():
    np.random.seed(3)
    expected = (
        np.random.default_rng(np.random.randint(2**32, size=4, dtype=np.uint32)).random(),
        np.random.rand(),
    )
    np.random.seed(3)
    assert (module._generator().random(), np.random.rand()) == expected

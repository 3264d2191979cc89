"""Which patches are hidden: blocks (paper, Algorithm 1, as the official `masking_generator.py` samples them) or single ones."""

import math
from functools import cache

import numpy as np
from mmcv.transforms import BaseTransform

from ..registry import TRANSFORMS
from ..utils.arguments import as_pair, check_integers, check_sizes

TRIES = 10  # of placing a block, then the mask is done (official)
ASPECTS = (0.3, 1 / 0.3)  # height / width of a block, log-uniform
HALF_LOG = math.log(ASPECTS[1] / ASPECTS[0]) / 2


def blockwise_mask(
    rng: np.random.Generator, grid: tuple[int, int], budget: int, min_block: int = 16
) -> np.ndarray:
    """Bool [h, w], True where hidden: at most `budget` patches, in blocks.

    A block's area is uniform between `min_block` and what remains of the budget (in either order: the last blocks are
    smaller than `min_block`), it is strictly smaller than the grid both ways, and hides at least one patch more.
    """
    height, width = grid
    columns = _columns(height, width)
    mask, remaining = np.zeros(grid, bool), budget
    hidden = 0  # the same as bits of a number, which are counted faster
    while remaining:
        for area, aspect, y, x in rng.random((TRIES, 4)).tolist():
            side = math.sqrt(min_block + area * (remaining - min_block))
            root = math.exp((aspect - 0.5) * HALF_LOG)
            h, w = round(side * root), round(side / root)
            if h >= height or w >= width:
                continue
            top, left = int(y * (height - h + 1)), int(x * (width - w + 1))
            bits = columns[h] * ((1 << w) - 1) << top * width + left
            new = h * w - (hidden & bits).bit_count()
            if 0 < new <= remaining:
                block = mask[top : top + h, left : left + w]
                block[:] = True
                hidden |= bits
                remaining -= new
                break
        else:
            break
    return mask


@cache
def _columns(height: int, width: int) -> list[int]:
    """One bit in each of the first 0, 1, … rows of a grid."""
    return [sum(1 << width * row for row in range(h)) for h in range(height)]


def exact_blockwise_mask(
    rng: np.random.Generator, grid: tuple[int, int], budget: int, min_block: int = 16
) -> np.ndarray:
    """The same, drawn again until exactly `budget` patches are hidden. ValueError when a thousand draws do not give one."""
    for _ in range(1000):
        mask = blockwise_mask(rng, grid, budget, min_block)
        if mask.sum() == budget:
            return mask
    raise ValueError(
        f'no mask of exactly {budget} of {grid[0]}×{grid[1]} patches in blocks of {min_block} was found in 1000 draws: '
        'take another budget, smaller blocks, or exact=False'
    )


def random_mask(rng: np.random.Generator, grid: tuple[int, int], budget: int) -> np.ndarray:
    """Bool [h, w] with exactly `budget` single patches hidden, all sets of them equally likely (Table 4's ablation)."""
    flat = np.zeros(grid[0] * grid[1], bool)
    flat[rng.permutation(len(flat))[:budget]] = True
    return flat.reshape(grid)


def _check(grid: int | tuple[int, int], budget: int) -> tuple[int, int]:
    check_sizes(1, grid=grid)
    check_integers(1, budget=budget)
    grid = as_pair(grid)
    if budget > grid[0] * grid[1]:
        raise ValueError(
            f'a mask of budget={budget} patches does not fit grid={grid}: give 1 … {grid[0] * grid[1]}'
        )
    return grid


def _generator() -> np.random.Generator:
    """A generator that follows NumPy's global state, which `SeededDataset` sets for each sample."""
    # The numbers that np.random.randint(2**32, size=4, dtype=np.uint32) gives, in a fifth of the time.
    return np.random.default_rng(np.random.get_bit_generator().random_raw(4).astype(np.uint32))


@TRANSFORMS.register_module()
class BlockwiseMask(BaseTransform):
    """Adds `mask`, bool [h, w], of about `budget` patches in blocks (`exact`: drawn again until the count is exact).

    Raises ValueError for a budget larger than the grid or smaller than a block, or a grid that has no smaller block.
    """

    def __init__(
        self,
        grid: int | tuple[int, int] = 14,
        budget: int = 75,
        min_block: int = 16,
        exact: bool = False,
    ):
        self.grid, self.budget, self.min_block = _check(grid, budget), budget, min_block
        check_integers(1, min_block=min_block)
        if min_block > budget:
            raise ValueError(
                f'a budget of {budget} is smaller than a block of min_block={min_block}: lower min_block'
            )
        if min(self.grid) < 2:
            raise ValueError(
                f'grid={grid} has no block smaller than itself both ways: take beit_mm.RandomMask'
            )
        self.sample = exact_blockwise_mask if exact else blockwise_mask

    def transform(self, results: dict) -> dict:
        results['mask'] = self.sample(_generator(), self.grid, self.budget, self.min_block)
        return results


@TRANSFORMS.register_module()
class RandomMask(BaseTransform):
    """Adds `mask`, bool [h, w], of exactly `budget` single patches. Raises ValueError for a budget larger than the grid."""

    def __init__(self, grid: int | tuple[int, int] = 14, budget: int = 75):
        self.grid, self.budget = _check(grid, budget), budget

    def transform(self, results: dict) -> dict:
        results['mask'] = random_mask(_generator(), self.grid, self.budget)
        return results

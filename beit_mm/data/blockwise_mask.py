"""Masks of patches: blocks (Algorithm 1 of the paper, as in the official code) or patches."""

import math

import numpy as np
from mmcv.transforms import BaseTransform

from ..registry import TRANSFORMS
from ..utils.arguments import as_pair, check_integers, check_sizes

MAX_TRIES = 10  # to place one block; after them the mask is complete, as in the official code
MAX_EXACT_DRAWS = 1000
HALF_LOG_RANGE = math.log(1 / 0.3)  # height / width of a block is log-uniform in 0.3 … 1 / 0.3


def blockwise_mask(
    rng: np.random.Generator, grid: tuple[int, int], num_masked: int, min_block: int = 16
) -> np.ndarray:
    """Return a mask, bool [h, w], with at most `num_masked` patches masked (True), in blocks.

    The area of a block is uniform between `min_block` and the number of patches that remain to be
    masked, so the last blocks can be smaller than `min_block`. Each block is smaller than the grid
    in both directions and masks at least one new patch.
    """
    height, width = grid
    mask, remaining = np.zeros(grid, bool), num_masked
    while remaining:
        for area, aspect, y, x in rng.random((MAX_TRIES, 4)).tolist():
            side = math.sqrt(min_block + area * (remaining - min_block))
            root = math.exp((aspect - 0.5) * HALF_LOG_RANGE)
            h, w = round(side * root), round(side / root)
            if h >= height or w >= width:
                continue

            top, left = int(y * (height - h + 1)), int(x * (width - w + 1))
            block = mask[top : top + h, left : left + w]
            new = h * w - np.count_nonzero(block)
            if 0 < new <= remaining:
                block[:] = True
                remaining -= new
                break
        else:
            break
    return mask


def exact_blockwise_mask(
    rng: np.random.Generator, grid: tuple[int, int], num_masked: int, min_block: int = 16
) -> np.ndarray:
    """Draw blockwise masks until one has exactly `num_masked` masked patches."""
    for _ in range(MAX_EXACT_DRAWS):
        mask = blockwise_mask(rng, grid, num_masked, min_block)
        if mask.sum() == num_masked:
            return mask
    given = f'exactly {num_masked} of {grid[0]}×{grid[1]} patches in blocks of {min_block}'
    raise ValueError(f'no mask of {given}: change num_masked, lower min_block, or set exact=False')


def random_mask(rng: np.random.Generator, grid: tuple[int, int], num_masked: int) -> np.ndarray:
    """Return a mask, bool [h, w], with any `num_masked` patches masked (ablation of Table 4)."""
    mask = np.zeros(grid[0] * grid[1], bool)
    mask[rng.permutation(len(mask))[:num_masked]] = True
    return mask.reshape(grid)


def _generator() -> np.random.Generator:
    """Return a generator seeded by NumPy's global state, which SeededDataset sets per sample."""
    # The same numbers as np.random.randint(2**32, size=4, dtype=np.uint32), five times faster.
    return np.random.default_rng(np.random.get_bit_generator().random_raw(4).astype(np.uint32))


@TRANSFORMS.register_module()
class RandomMask(BaseTransform):
    """Transform that adds `mask`, bool [h, w], with exactly `num_masked` masked patches."""

    def __init__(self, grid: int | tuple[int, int] = 14, num_masked: int = 75):
        check_sizes(1, grid=grid)
        check_integers(1, num_masked=num_masked)
        self.grid, self.num_masked = as_pair(grid), num_masked
        if num_masked > (most := math.prod(self.grid)):
            given = f'num_masked={num_masked}: grid={self.grid}'
            raise ValueError(f'{given} has {most} patches. Set 1 … {most}')

    def transform(self, results: dict) -> dict:
        results['mask'] = random_mask(_generator(), self.grid, self.num_masked)
        return results


@TRANSFORMS.register_module()
class BlockwiseMask(RandomMask):
    """Transform that adds `mask`, bool [h, w], with at most `num_masked` patches masked in blocks.

    Args:
        min_block: smallest area of a block, in patches, except for the last blocks.
        exact: draw masks until one has exactly `num_masked` masked patches.
    """

    def __init__(
        self,
        grid: int | tuple[int, int] = 14,
        num_masked: int = 75,
        min_block: int = 16,
        exact: bool = False,
    ):
        super().__init__(grid, num_masked)
        check_integers(1, min_block=min_block)
        if min_block > num_masked:
            given = f'num_masked={num_masked} is smaller than min_block={min_block}'
            raise ValueError(f'{given}: lower min_block')
        if min(self.grid) < 2:
            given = f'grid={grid} has one row or column'
            raise ValueError(f'{given}, so no block is smaller: use beit_mm.RandomMask')
        self.min_block = min_block
        self.draw_mask = exact_blockwise_mask if exact else blockwise_mask

    def transform(self, results: dict) -> dict:
        results['mask'] = self.draw_mask(_generator(), self.grid, self.num_masked, self.min_block)
        return results

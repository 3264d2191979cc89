"""The drawn pixels are those of the right patches, and pooling keeps the sums of attention."""

import numpy as np
import pytest
import torch

from beit_mm.models import BEiT
from beit_mm.models.relative_position import relative_position_index
from beit_mm.viz import attention

pytestmark = pytest.mark.any_stack

ARCH = dict(embed_dims=24, num_layers=3, num_heads=2, feedforward_channels=32)
IMAGE = torch.randn(1, 3, 40, 24, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize('size', [(40, 24), (83, 50), (37, 200)])
@pytest.mark.parametrize('offset', [(0, 0), (1, 0), (0, -1), (2, 1)])
def test_planted_attention_lights_exactly_the_pixels_of_its_patch(size, offset):
    """A head attends to the patch `offset` (rows, columns) away, whose pixels must be bright."""
    grid = (5, 3)
    model = BEiT(ARCH, img_size=(40, 24), patch_size=8, rel_pos_bias='shared').eval()
    q, k = 1 + 1 * 3 + 1, 1 + (1 + offset[0]) * 3 + 1 + offset[1]
    with torch.no_grad():
        model.rel_pos_bias.relative_position_bias_table[relative_position_index(grid)[q, k]] = 50.0
    image = np.full((*size, 3), 90, np.uint8)
    patch = attention.patch_at(size[1] // 2, int(size[0] * 0.3), size, grid)
    assert patch == (1, 1)
    values = attention.attention_from_patch(model, IMAGE, patch, grid, layer=1)['head-01']
    target = patch[0] + offset[0], patch[1] + offset[1]
    assert [values[target].round(3), values.sum().round(3)] == [1, 1]

    drawn = attention.overlay_heat(image, values)
    bright = (drawn == drawn.reshape(-1, 3)[drawn.sum(-1).argmax()]).all(-1)
    assert np.array_equal(bright, pixels_of(target, size, grid))
    framed = attention.frame_patch(drawn, patch, grid)
    inside = pixels_of(patch, size, grid)
    assert np.array_equal(framed[inside], drawn[inside])
    changed = np.argwhere((framed != drawn).any(-1))
    low, high = np.argwhere(inside).min(0), np.argwhere(inside).max(0)
    assert (changed.min(0) == low - 2).all() and (changed.max(0) == high + 2).all()


def pixels_of(patch: tuple[int, int], size: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """Return bool [H, W], True in a patch."""
    found = np.zeros(size, bool)
    for y, x in np.ndindex(size):
        found[y, x] = attention.patch_at(x, y, size, grid) == patch
    return found


def test_pooling_averages_over_attending_and_sums_over_attended_patches():
    rows = torch.rand(2, 15, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cells = attention.pool(rows, (5, 3), 2)  # 3×2 cells
    first, upper_right = [0, 1, 3, 4], [2, 5]  # the right border is one column wide
    assert (cells.sum(-1).mean(0)[0] - rows[:, first].sum(-1).mean()).abs() <= 1e-12
    assert (cells[1, 0, 1] - rows[1][first][:, upper_right].sum(1).mean()).abs() <= 1e-12
    assert (cells[1, 5, 0] - rows[1, 14, first].sum()).abs() <= 1e-12
    assert torch.equal(attention.pool(rows, (5, 3), 1), rows)

"""The relative position table: the official rows, and a resize that keeps what the table means."""

import json
import runpy
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from small import randomize
from torch._subclasses import FakeTensorMode

from beit_mm.models import BEiT, tracing
from beit_mm.models.relative_position import (
    Grid,
    _position_index,
    _spline_matrix,
    count_table_rows,
    new_table,
    position_bias,
    relative_position_index,
    resize_bias_table,
)

pytestmark = pytest.mark.any_stack

SIZES = [1, 2, 3, 4, 7, 14]
parametrize_sizes = pytest.mark.parametrize('source, target', product(SIZES, SIZES))


def make_noise(grid: Grid, heads: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count_table_rows(grid), heads, dtype=torch.float64, generator=generator)


def table_of(function, grid: Grid) -> torch.Tensor:
    """Return a table whose bias at the offset (dy, dx), key before query, is function(dy, dx)."""
    y, x = np.arange(1 - grid[0], grid[0]), np.arange(1 - grid[1], grid[1])
    dy, dx = np.meshgrid(y, x, indexing='ij')
    return torch.from_numpy(np.append(function(dy, dx).ravel(), [1.0, 2.0, 3.0]))[:, None]


@pytest.mark.parametrize('grid', [(1, 1), (1, 3), (2, 2), (3, 2), (4, 5)])
def test_index_is_the_official_one(grid):
    h, w = grid
    index, rows = relative_position_index(grid), (2 * h - 1) * (2 * w - 1)
    assert index[0, 0] == rows + 2
    assert (index[0, 1:] == rows).all() and (index[1:, 0] == rows + 1).all()
    for query in range(h * w):
        for key in range(h * w):
            dy, dx = query // w - key // w, query % w - key % w
            assert index[1 + query, 1 + key] == (dy + h - 1) * (2 * w - 1) + dx + w - 1


# -- resize --------------------------------------------------------------------------------------


@parametrize_sizes
def test_a_constant_table_stays_constant_and_rows_of_cls_are_copied(source, target):
    table = torch.full((count_table_rows((source, 3)), 2), 0.7, dtype=torch.float64)
    table[-3:] = torch.tensor([[1.0, 2], [3, 4], [5, 6]])
    resized = resize_bias_table(table, (source, 3), (target, 5))
    assert len(resized) == count_table_rows((target, 5))
    assert (resized[:-3] - 0.7).abs().max() < 1e-9
    assert torch.equal(resized[-3:], table[-3:])


@parametrize_sizes
def test_the_nearest_offsets_keep_their_bias(source, target):
    """The geometric grid does not move the offsets −1, 0 and 1, and nothing is extrapolated."""
    table = make_noise((source, source), 1)
    resized = resize_bias_table(table, (source, source), (target, target))
    before = table[:-3].reshape(2 * source - 1, -1)
    after = resized[:-3].reshape(2 * target - 1, -1)
    near = min(source, target, 2) - 1
    of_source = slice(source - 1 - near, source + near)
    of_target = slice(target - 1 - near, target + near)
    torch.testing.assert_close(
        after[of_target, of_target], before[of_source, of_source], rtol=0, atol=1e-8
    )
    if source == 2:
        assert before.min() - 1 < after.min() and after.max() < before.max() + 1


@pytest.mark.parametrize(
    ('small', 'large'), [((14, 14), (32, 32)), ((14, 14), (24, 20)), ((8, 14), (14, 16))]
)
def test_enlarging_and_shrinking_returns_a_smooth_table(small, large):
    table = table_of(
        lambda y, x: np.exp(-(y**2 + x**2) / 50) + np.tanh(y / 8) * np.cos(x / 6), small
    )
    back = resize_bias_table(resize_bias_table(table, small, large), large, small)
    assert (back - table).abs().max() < 1e-2 * (table[:-3].max() - table[:-3].min())


@pytest.mark.parametrize('case', range(5))
def test_it_is_what_interp2d_computed_in_the_official_code(case):
    """Values of SciPy 1.13 (interp2d.json); the official code finds its ratio to 1e-6 only."""
    make_table = runpy.run_path(str(Path(__file__).parent / 'interp2d.py'))['make_table']
    judged = json.loads((Path(__file__).parent / 'interp2d.json').read_text())['cases'][case]
    source, target = judged['source'], judged['target']
    values = make_table(source)
    table = torch.from_numpy(np.append(values.ravel(), [1.0, 2.0, 3.0]))[:, None]
    resized = resize_bias_table(table, (source, source), (target, target))[:-3]
    rows = resized.reshape(2 * target - 1, -1).numpy()[judged['rows']]
    assert np.abs(rows - judged['values']).max() < 1e-5 * np.ptp(values)


def test_gradients_flow_through_the_resize():
    table = make_noise((4, 3)).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: position_bias(t, (4, 3), (6, 5)), table)
    position_bias(table, (4, 3), (6, 5)).square().sum().backward()
    assert (table.grad.abs().sum(1) > 0).all()


# -- cached constants ----------------------------------------------------------------------------


def make_model(**settings) -> BEiT:
    torch.manual_seed(0)
    arch = dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32)
    common = dict(arch=arch, img_size=32, patch_size=8, rel_pos_bias='per_layer', layer_scale=0.1)
    return randomize(BEiT(**common | settings)).eval()


def on_meta(model: BEiT, image: torch.Tensor) -> None:
    with torch.device('meta'):
        model(image)


def in_fake_mode(model: BEiT, image: torch.Tensor) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        model(mode.from_tensor(image))


def exported(strict: bool):
    return lambda model, image: torch.export.export(model, (image,), strict=strict).module()(image)[
        0
    ]


FIRST = {
    'torch.device': on_meta,
    'inference_mode': torch.inference_mode()(lambda model, image: model(image)),
    'torch.func': lambda model, image: torch.func.jvp(lambda x: model(x)[0], (image,), (image,)),
    'fake tensors': in_fake_mode,
    'export': exported(False),
    'export strict': exported(True),
    'trace': lambda model, image: torch.jit.trace(model, image)(image)[0],
    'compile': lambda model, x: torch.compile(model, backend='aot_eager', fullgraph=True)(x)[0],
}


@pytest.fixture
def empty_cache() -> None:
    _position_index.cache.clear()
    _spline_matrix.cache.clear()
    torch._dynamo.reset()


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning', 'ignore::FutureWarning')
@pytest.mark.parametrize('first', FIRST)
@pytest.mark.parametrize(
    'positions, size', [('shared', (32, 32)), ('per_layer', (40, 24))], ids=['same grid', 'resized']
)
def test_constants_serve_every_mode_whichever_computed_them(first, positions, size, empty_cache):
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    found = FIRST[first](make_model(rel_pos_bias=positions), image)
    model = make_model(rel_pos_bias=positions)
    (features,) = model(image)
    features.sum().backward()
    assert all(p.grad.any() for name, p in model.named_parameters() if 'table' in name)
    if isinstance(found, torch.Tensor):
        torch.testing.assert_close(found, features, rtol=1e-4, atol=1e-4)
    _position_index.cache.clear()
    _spline_matrix.cache.clear()
    assert torch.equal(model(image)[0], features)


def test_an_export_with_dynamic_sizes_is_right_at_its_own_size_and_refuses_others(empty_cache):
    model, image = make_model(), torch.randn(2, 3, 40, 24)
    sizes = {i: 8 * torch.export.Dim(name, min=2, max=9) for i, name in ((2, 'h'), (3, 'w'))}
    exported = torch.export.export(model, (image,), dynamic_shapes=(sizes,)).module()
    torch.testing.assert_close(exported(image), model(image))
    with pytest.raises(AssertionError, match='Guard failed: x'):
        exported(torch.randn(2, 3, 24, 40))


@pytest.mark.parametrize('dynamic', [None, True])
def test_a_compiled_model_takes_images_of_any_size(dynamic, empty_cache):
    model = make_model()
    compiled = torch.compile(model, backend='eager', fullgraph=True, dynamic=dynamic)
    for size in [(32, 32), (40, 24), (24, 56)]:
        image = torch.randn(1, 3, *size)
        torch.testing.assert_close(compiled(image)[0], model(image)[0])


def test_constants_are_cached_up_to_a_limit_and_the_newest_whatever_its_size(
    empty_cache, monkeypatch
):
    monkeypatch.setattr(tracing, 'MAX_CACHE_MB', 1)

    def cached() -> list[tuple]:
        return [key[:2] for key in _position_index.cache]

    grids = [(15, 15), (15, 16), (16, 15)]  # an index of 0.4 MiB each
    for grid in [*grids, (15, 16)]:
        position_bias(new_table(grid, 1), grid, grid)
    assert cached() == [(16, 15), (15, 16)]
    position_bias(new_table((2, 2), 1), (2, 2), (20, 20))  # 1.2 MiB
    assert cached() == [(20, 20)]

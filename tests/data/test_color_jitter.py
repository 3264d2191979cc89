"""Colour jitter as one matrix: the official steps without their rounding, the same draws, and how far apart the pixels are."""

import numpy as np
import pytest
from mmengine.registry import init_default_scope

from beit_mm.data.color_jitter import CUT, GRAY, ColorJitter, color_matrix
from beit_mm.data.two_views import PackViews, TwoViews
from beit_mm.registry import TRANSFORMS

pytestmark = pytest.mark.any_stack


def photo(seed: int, height: int = 120, width: int = 160) -> np.ndarray:
    """Edges, gradients and noise: uint8 BGR, with parts that are nearly black and nearly white."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 30
    waves = np.stack([np.sin(y * a + x * b + c) for a, b, c in rng.normal(0, 2, (3, 3))], -1)
    image = (
        120
        + 60 * waves
        + 70 * (np.hypot(y - 2, x - 2) < 1)[..., None]
        + rng.normal(0, 8, waves.shape)
    )
    return image.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize('order', [(0, 1, 2, 3), (2, 1, 0, 3), (1, 3, 0, 2), (3, 2, 1, 0)])
@pytest.mark.parametrize('factors', [{0: 0.7, 1: 1.3, 2: 0.6}, {1: 0.6}, {0: 1.4, 2: 1.2}, {}])
def test_the_matrix_is_torchvisions_steps_one_after_the_other(order, factors):
    image = photo(0).astype(float)
    mean, out = image.mean((0, 1)), image.copy()
    for step in order:
        if step not in factors:
            continue
        gray = (out @ GRAY)[..., None]
        other = {0: 0.0, 1: np.floor(gray.mean() + 0.5), 2: gray}[step]
        out = factors[step] * out + (1 - factors[step]) * other - CUT
    matrix = color_matrix(mean, order, factors)
    assert np.abs(image @ matrix[:, :3].T + matrix[:, 3] - out).max() < 1e-9


@pytest.mark.parametrize('strengths', [(0.4, 0.4, 0.4), (0.4, 0, 0), (0, 1.5, 0.2), (0, 0, 0)])
def test_it_draws_what_mmpretrains_draws(strengths):
    """So that crop and mask behind it stay the same."""
    init_default_scope('beit_mm')
    names = dict(zip(('brightness', 'contrast', 'saturation'), strengths, strict=True))
    theirs, after = TRANSFORMS.build(dict(type='mmpretrain.ColorJitter', **names)), []
    for jitter in (ColorJitter(**names), theirs):
        np.random.seed(3)
        jitter(dict(img=photo(0)))
        after.append(np.random.rand())
    assert after[0] == after[1]
    np.random.seed(3)
    order, b, c, s, _ = theirs._rand_params()
    np.random.seed(3)
    found = ColorJitter(**names)(dict(img=photo(0)))['color_matrix']
    factors = {i: f for i, f in enumerate((b, c, s)) if f is not None}
    assert np.allclose(found, color_matrix(photo(0).mean((0, 1)), order, factors))


def test_views_are_near_those_of_the_official_order():
    """Which rounds and cuts to 0 … 255 each pixel of the whole image behind each step."""
    init_default_scope('beit_mm')
    strength = dict(brightness=0.4, contrast=0.4, saturation=0.4)
    apart = {'patch_view': [], 'token_view': []}
    for seed in range(24):
        found = []
        for jitter in (
            ColorJitter(**strength),
            TRANSFORMS.build(dict(type='mmpretrain.ColorJitter', **strength)),
        ):
            np.random.seed(seed)
            found.append(TwoViews(size=64, token_size=32)(jitter(dict(img=photo(seed)))))
        for name, each in apart.items():
            each.append(found[0][name].astype(int) - found[1][name])
    for each in apart.values():
        difference = np.stack(each)
        assert (
            abs(difference.mean()) < 0.6 and np.abs(difference).mean() < 1.2
        )  # of 255; without jitter: 30
        assert (np.abs(difference) <= 2).mean() > 0.9


def test_both_views_get_the_same_colours_and_the_matrix_is_used_up():
    image = np.full((50, 50, 3), (40, 90, 160), np.uint8)
    np.random.seed(1)
    out = TwoViews(size=16, token_size=8)(ColorJitter(0.4, 0.4, 0.4)(dict(img=image)))
    assert (out['patch_view'] == out['token_view'][0, 0]).all() and 'color_matrix' not in out
    assert (out['patch_view'][0, 0] != image[0, 0]).any()


def test_jitter_that_nobody_does_is_an_error():
    with pytest.raises(ValueError, match=r'put beit_mm\.ColorJitter before beit_mm\.TwoViews'):
        PackViews()(ColorJitter(0.4)(dict(img=photo(0), patch_view=photo(0))))
    with pytest.raises(ValueError, match=r'brightness=-1: expected a finite number, at least 0'):
        ColorJitter(-1)

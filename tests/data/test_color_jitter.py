"""Color jitter as one matrix: torchvision's steps, mmpretrain's draws, nearly the same pixels."""

import numpy as np
import pytest
from data.test_two_views import photo
from mmengine.registry import init_default_scope

from beit_mm.data.color_jitter import GRAY_WEIGHTS, TRUNCATION, ColorJitter, color_matrix
from beit_mm.data.two_views import TwoViews
from beit_mm.registry import TRANSFORMS

pytestmark = pytest.mark.any_stack


@pytest.mark.parametrize('order', [(0, 1, 2, 3), (2, 1, 0, 3), (1, 3, 0, 2), (3, 2, 1, 0)])
@pytest.mark.parametrize('factors', [{0: 0.7, 1: 1.3, 2: 0.6}, {1: 0.6}, {0: 1.4, 2: 1.2}, {}])
def test_the_matrix_is_torchvisions_steps_one_after_the_other(order, factors):
    image = photo(120, 160).astype(float)
    mean, out = image.mean((0, 1)), image.copy()
    for step in order:
        if step not in factors:
            continue
        gray = (out @ GRAY_WEIGHTS)[..., None]
        other = {0: 0.0, 1: np.floor(gray.mean() + 0.5), 2: gray}[step]
        out = factors[step] * out + (1 - factors[step]) * other - TRUNCATION
    matrix = color_matrix(mean, order, factors)
    assert np.abs(image @ matrix[:, :3].T + matrix[:, 3] - out).max() < 1e-9


@pytest.mark.parametrize('strengths', [(0.4, 0.4, 0.4), (0.4, 0, 0), (0, 1.5, 0.2), (0, 0, 0)])
def test_it_draws_what_mmpretrain_draws(strengths):
    """So the crop and the mask after it are the same."""
    init_default_scope('beit_mm')
    names = dict(zip(('brightness', 'contrast', 'saturation'), strengths, strict=True))
    theirs, image = TRANSFORMS.build(dict(type='mmpretrain.ColorJitter', **names)), photo(120, 160)
    found, after = [], []
    for jitter in (ColorJitter(**names), theirs):
        np.random.seed(3)
        found.append(jitter(dict(img=image.copy())))
        after.append(np.random.rand())
    assert after[0] == after[1]
    np.random.seed(3)
    order, *drawn, _ = theirs._rand_params()
    factors = {step: factor for step, factor in enumerate(drawn) if factor is not None}
    expected = color_matrix(image.mean((0, 1)), order, factors)
    assert np.allclose(found[0]['color_matrix'], expected)


def test_views_are_near_those_of_the_official_order():
    """The official code rounds and clips each pixel of the whole image after each step."""
    init_default_scope('beit_mm')
    names = dict(brightness=0.4, contrast=0.4, saturation=0.4)
    jitters = ColorJitter(**names), TRANSFORMS.build(dict(type='mmpretrain.ColorJitter', **names))
    differences = {'patch_view': [], 'token_view': []}
    for seed in range(24):
        found = []
        for jitter in jitters:
            np.random.seed(seed)
            image = photo(120, 160, seed=seed)
            found.append(TwoViews(size=64, token_size=32)(jitter(dict(img=image))))
        for name, each in differences.items():
            each.append(found[0][name].astype(int) - found[1][name])
    for each in differences.values():
        difference = np.stack(each)  # 30 without jitter
        assert abs(difference.mean()) < 0.6 and np.abs(difference).mean() < 1.2
        assert (np.abs(difference) <= 2).mean() > 0.9

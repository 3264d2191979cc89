"""Two views: one crop, torchvision's distribution of crops, PIL's pixels."""

import math

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from beit_mm.data.two_views import (
    PackViews,
    TwoViews,
    channels_first,
    random_crop,
    resize_square,
    torch_resizes,
)
from beit_mm.models import DiscreteVAE

pytestmark = pytest.mark.any_stack

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
VIEWS = (('patch_view', 224, 'bicubic'), ('token_view', 112, 'lanczos'))


def photo(height: int = 300, width: int = 400, seed: int = 0) -> np.ndarray:
    """Return edges, gradients and noise, as in a photograph: uint8 BGR."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 60
    waves = np.stack([np.sin(y * a + x * b + c) for a, b, c in rng.normal(0, 3, (3, 3))], -1)
    disc = 50 * (np.hypot(y - 2, x - 3) < 1.3)[..., None]
    return (120 + 60 * waves + disc + rng.normal(0, 12, waves.shape)).clip(0, 255).astype(np.uint8)


def pil(image: np.ndarray, side: int, how: str) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling[how.upper()]))


def cropped(image: np.ndarray, seed: int) -> np.ndarray:
    top, left, h, w = random_crop(np.random.RandomState(seed), image.shape[:2], SCALE, RATIO)
    return np.ascontiguousarray(image[top : top + h, left : left + w])


# -- pixels ------------------------------------------------------------------------------------------


@pytest.mark.parametrize('seed', range(4))
def test_both_views_are_pils_resizing_of_the_same_crop(seed):
    image = photo(seed=seed)
    for given in (image, image[:, ::-1].copy()[:, ::-1]):  # the second is flipped as a view
        np.random.seed(seed)
        out = TwoViews(size=224, token_size=112)(dict(img=given))
        for name, side, how in VIEWS:
            assert out[name].dtype == np.uint8 and out[name].shape == (side, side, 3)
            assert np.array_equal(out[name], pil(cropped(image, seed), side, how))


def test_tokens_of_torchs_views_are_those_of_pils_but_not_without_antialiasing():
    torch.manual_seed(0)
    dvae = DiscreteVAE(vocab_size=128, width=16, blocks=1, width_in=8)
    crops = [cropped(photo(375, 500, seed=seed), seed) for seed in range(8)]
    resizes = dict(
        pil=lambda crop: pil(crop, 112, 'lanczos'),
        torch=lambda crop: resize_square(crop, 112, 'lanczos', 'torch'),
        cv2=lambda crop: cv2.resize(crop, (112, 112), interpolation=cv2.INTER_LANCZOS4),
    )
    ids = {}
    for name, resized in resizes.items():
        views = np.stack([channels_first(resized(crop)) for crop in crops])
        views = torch.from_numpy(views).float() / 255
        if name == 'pil':
            dvae.init_codebook(views)
        ids[name] = dvae.tokens(views)
    equal = {name: (each == ids['pil']).float().mean() for name, each in ids.items()}
    assert ids['pil'].unique().numel() > 64
    assert equal['torch'] >= 0.99 and equal['cv2'] < 0.9


@pytest.mark.parametrize(('side', 'how'), [(224, 'bicubic'), (112, 'lanczos'), (64, 'bilinear')])
def test_torchs_resizing_is_pils_within_few_levels(side, how):
    for seed, shape in enumerate([(375, 500), (300, 300), (120, 150), (231, 90), (40, 500)]):
        image = photo(*shape, seed=seed)
        difference = np.abs(
            resize_square(image, side, how, 'torch').astype(int) - resize_square(image, side, how)
        )
        assert difference.max() <= 4 and difference.mean() < 0.4


def test_what_torch_cannot_resize_is_resized_by_pil():
    assert torch_resizes('bicubic') and not torch_resizes('hamming')
    assert np.array_equal(
        resize_square(photo(), 50, 'hamming', 'torch'), resize_square(photo(), 50, 'hamming')
    )


@pytest.mark.parametrize('backend', ['pillow', 'torch'])
@pytest.mark.parametrize('channels', [1, 2, 4, 13])
def test_any_channels_are_resized_channel_by_channel(backend, channels):
    image = np.random.default_rng(0).integers(0, 256, (40, 30, channels), np.uint8)
    bands = [np.ascontiguousarray(image[..., i]) for i in range(channels)]
    own = [resize_square(band, 16, 'bicubic', backend) for band in bands]
    found = resize_square(image[..., 0] if channels == 1 else image, 16, 'bicubic', backend)
    assert np.array_equal(channels_first(found), np.stack(own))


def test_without_a_crop_the_whole_image_is_seen_and_the_right_size_is_kept():
    out = TwoViews(size=64, token_size=24, scale=None)(dict(img=photo(64, 64)))
    assert np.array_equal(out['patch_view'], photo(64, 64))
    assert np.array_equal(out['token_view'], pil(photo(64, 64), 24, 'lanczos'))


# -- crops -------------------------------------------------------------------------------------------


@pytest.mark.parametrize('size', [(300, 400), (200, 200), (150, 333)])
def test_crops_are_distributed_as_torchvisions(size):
    """Means and spreads of area, ratio and place agree within chance of 1 500 draws each."""
    draws, rng, image = 1500, np.random.RandomState(0), torch.empty(3, *size)
    torch.manual_seed(0)
    ours = [random_crop(rng, size, SCALE, RATIO) for _ in range(draws)]
    theirs = [RandomResizedCrop.get_params(image, SCALE, RATIO) for _ in range(draws)]

    def features(crops: list) -> np.ndarray:
        top, left, height, width = np.array(crops, float).T
        area, ratio = height * width / math.prod(size), np.log(width / height)
        values = np.stack([area, ratio, top / size[0], left / size[1]], 1)
        return np.concatenate([values, values**2], 1)

    a, b = features(ours), features(theirs)
    z = (a.mean(0) - b.mean(0)) / np.sqrt((a.var(0) + b.var(0)) / draws)
    assert abs(z).max() < 4


@pytest.mark.parametrize('size', [(20, 1000), (1000, 20), (1, 50), (50, 1), (1, 1)])
def test_extreme_images_get_the_central_crop_of_torchvision(size):
    scale = (1.0, 1.0)  # no crop of the whole area has an allowed ratio
    found = random_crop(np.random.RandomState(0), size, scale, RATIO)
    assert found == tuple(RandomResizedCrop.get_params(torch.empty(3, *size), scale, RATIO))


# -- packing -----------------------------------------------------------------------------------------


def test_packed_views_are_rgb_uint8_channels_first():
    image, mask = photo(16, 24), np.eye(3, dtype=bool)
    packed = PackViews()(dict(patch_view=image, mask=mask, img_path='a.jpg', gt_label=3, other=1))
    inputs, sample = packed['inputs'], packed['data_samples']
    assert inputs.keys() == {'patch_view', 'mask'}
    assert np.array_equal(inputs['patch_view'], image[..., ::-1].transpose(2, 0, 1))
    assert np.array_equal(inputs['mask'], mask) and inputs['mask'].dtype == torch.bool
    assert sample.img_path == 'a.jpg' and sample.gt_label == 3 and 'other' not in sample

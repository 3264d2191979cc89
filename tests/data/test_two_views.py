"""Two views: one crop, torchvision's distribution of crops, PIL's pixels."""

import math

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from beit_mm.data.two_views import PackViews, TwoViews, random_crop, resize, torch_resizes
from beit_mm.models import DiscreteVAE

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def photo(height: int = 300, width: int = 400, seed: int = 0) -> np.ndarray:
    """Edges, gradients and noise, as in a photograph: uint8 BGR."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 60
    waves = np.stack([np.sin(y * a + x * b + c) for a, b, c in rng.normal(0, 3, (3, 3))], -1)
    image = (
        120
        + 60 * waves
        + 50 * (np.hypot(y - 2, x - 3) < 1.3)[..., None]
        + rng.normal(0, 12, waves.shape)
    )
    return image.clip(0, 255).astype(np.uint8)


def crop_of(seed: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    return random_crop(np.random.RandomState(seed), size, SCALE, RATIO)


# -- pixels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('seed', range(4))
def test_both_views_are_pils_resizing_of_the_same_crop_bit_for_bit(seed):
    image = photo(seed=seed)
    np.random.seed(seed)
    out = TwoViews(size=224, token_size=112)(dict(img=image))
    top, left, height, width = crop_of(seed, image.shape[:2])
    crop = Image.fromarray(image[..., ::-1]).crop((left, top, left + width, top + height))
    for name, side, method in (
        ('patch_view', 224, Image.Resampling.BICUBIC),
        ('token_view', 112, Image.Resampling.LANCZOS),
    ):
        assert out[name].dtype == np.uint8 and out[name].shape == (side, side, 3)
        assert np.array_equal(out[name][..., ::-1], np.asarray(crop.resize((side, side), method)))


def test_tokens_are_those_of_pils_views_and_without_antialiasing_many_are_others():
    """Of photo-like images, with a codebook made of them: all tokens the same, while mmpretrain's cv2 gives others."""
    torch.manual_seed(0)
    dvae = DiscreteVAE(vocab_size=128, width=16, blocks=1, width_in=8)
    ours, pils, cv2s, fast = [], [], [], []
    for seed in range(8):
        image = photo(375, 500, seed=seed)
        np.random.seed(seed)
        view = TwoViews(size=224, token_size=112)(dict(img=image))['token_view'][..., ::-1]
        top, left, height, width = crop_of(seed, image.shape[:2])
        crop = np.ascontiguousarray(image[top : top + height, left : left + width, ::-1])
        ours.append(view.copy())
        pils.append(np.asarray(Image.fromarray(crop).resize((112, 112), Image.Resampling.LANCZOS)))
        cv2s.append(cv2.resize(crop, (112, 112), interpolation=cv2.INTER_LANCZOS4))
        fast.append(resize(crop, 112, 'lanczos', 'torch'))
    views = [
        torch.from_numpy(np.stack(kind)).permute(0, 3, 1, 2).float() / 255
        for kind in (ours, pils, cv2s, fast)
    ]
    dvae.init_codebook(views[1])
    ids = [dvae.tokens(view) for view in views]
    assert ids[1].unique().numel() > 64
    assert (ids[0] == ids[1]).float().mean() >= 0.99
    assert (ids[3] == ids[1]).float().mean() >= 0.99  # of the fast backend
    assert (ids[2] == ids[1]).float().mean() < 0.9


@pytest.mark.parametrize(('side', 'how'), [(224, 'bicubic'), (112, 'lanczos'), (64, 'bilinear')])
def test_torchs_resizing_is_pils_within_few_levels(side, how):
    for seed, shape in enumerate([(375, 500), (300, 300), (120, 150), (231, 90), (40, 500)]):
        image = photo(*shape, seed=seed)
        apart = np.abs(resize(image, side, how, 'torch').astype(int) - resize(image, side, how))
        assert apart.max() <= 4 and apart.mean() < 0.4


def test_what_torch_cannot_resize_pil_does():
    assert torch_resizes('bicubic') and not torch_resizes('hamming')
    assert np.array_equal(resize(photo(), 50, 'hamming', 'torch'), resize(photo(), 50, 'hamming'))
    with pytest.raises(ValueError, match=r"backend='cv2': expected one of pillow, torch"):
        TwoViews(backend='cv2')


def test_without_a_crop_the_whole_image_is_seen():
    image = photo(120, 120)
    out = TwoViews(size=48, token_size=24, scale=None)(dict(img=image))
    for name, side, method in (
        ('patch_view', 48, Image.Resampling.BICUBIC),
        ('token_view', 24, Image.Resampling.LANCZOS),
    ):
        assert np.array_equal(
            out[name], np.asarray(Image.fromarray(image).resize((side, side), method))
        )


def test_a_crop_of_the_right_size_is_copied_as_pil_does():
    image = photo(64, 64)
    out = TwoViews(size=64, token_size=64, scale=None)(dict(img=image))
    for name, method in (
        ('patch_view', Image.Resampling.BICUBIC),
        ('token_view', Image.Resampling.LANCZOS),
    ):
        assert np.array_equal(out[name], image)
        assert np.array_equal(
            out[name], np.asarray(Image.fromarray(image).resize((64, 64), method))
        )


def test_an_image_that_was_flipped_by_a_view_gives_the_pixels_of_its_copy():
    flipped, found = photo()[:, ::-1], []
    for image in (flipped, flipped.copy()):
        np.random.seed(3)
        found.append(TwoViews()(dict(img=image)))
    for name in ('patch_view', 'token_view'):
        np.testing.assert_array_equal(found[0][name], found[1][name])


def test_a_target_of_pixels_needs_no_token_view():
    out = TwoViews(size=32, token_size=None)(dict(img=photo()))
    assert 'patch_view' in out and 'token_view' not in out


def test_a_view_is_a_function_of_numpys_global_state():
    views = []
    for seed in (1, 1, 2):
        np.random.seed(seed)
        views.append(TwoViews(size=32, token_size=16)(dict(img=photo()))['patch_view'])
    assert np.array_equal(views[0], views[1]) and not np.array_equal(views[0], views[2])


# -- crops -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('size', [(300, 400), (400, 300), (224, 224), (97, 411)])
def test_crops_lie_inside_and_have_the_asked_area_and_ratio(size):
    rng = np.random.RandomState(0)
    crops = np.array([random_crop(rng, size, SCALE, RATIO) for _ in range(500)])
    top, left, height, width = crops.T
    assert (
        (crops[:, :2] >= 0).all()
        and (top + height <= size[0]).all()
        and (left + width <= size[1]).all()
    )
    drawn = (height < size[0]) | (width < size[1])  # the fallback may be larger or smaller in area
    ratio, slack = width / height, 1 / width + 1 / height  # sides are rounded
    assert (ratio > RATIO[0] * (1 - slack))[drawn].all() and (ratio < RATIO[1] * (1 + slack))[
        drawn
    ].all()
    share = width * height / math.prod(size)
    assert (share <= SCALE[1]).all() and (share > SCALE[0] * (1 - 2 * slack)).all()
    assert len(np.unique(top)) > 20 and len(np.unique(left)) > 20


@pytest.mark.parametrize('size', [(300, 400), (200, 200), (150, 333)])
def test_crops_are_distributed_as_torchvisions(size):
    """Means and spreads of area, ratio and place, within chance of 1 500 draws each."""
    draws = 1500
    rng = np.random.RandomState(0)
    torch.manual_seed(0)
    image = torch.empty(3, *size)
    ours = np.array([random_crop(rng, size, SCALE, RATIO) for _ in range(draws)], float)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, SCALE, RATIO) for _ in range(draws)], float
    )

    def features(crops: np.ndarray) -> np.ndarray:
        top, left, height, width = crops.T
        area, ratio = height * width / math.prod(size), np.log(width / height)
        values = np.stack([area, ratio, top / size[0], left / size[1]], 1)
        return np.concatenate([values, values**2], 1)

    a, b = features(ours), features(theirs)
    z = (a.mean(0) - b.mean(0)) / np.sqrt((a.var(0) + b.var(0)) / draws)
    assert abs(z).max() < 4


@pytest.mark.parametrize('size', [(20, 1000), (1000, 20), (1, 50), (50, 1), (1, 1)])
def test_extreme_images_fall_back_to_the_central_crop_as_torchvision_does(size):
    scale = (1.0, 1.0)  # of 20×1000 no crop of the whole area has an allowed ratio
    found = random_crop(np.random.RandomState(0), size, scale, RATIO)
    torch.manual_seed(0)
    assert found == tuple(RandomResizedCrop.get_params(torch.empty(3, *size), scale, RATIO))
    top, left, height, width = found
    assert abs(2 * top + height - size[0]) <= 1 and abs(2 * left + width - size[1]) <= 1


# -- packing -----------------------------------------------------------------------------------------------------------


def test_packed_views_are_rgb_uint8_channels_first():
    image, mask = photo(16, 24), np.eye(3, dtype=bool)
    view = np.ascontiguousarray(image[:16, :16])
    packed = PackViews()(
        dict(patch_view=image, token_view=view, mask=mask, img_path='a.jpg', gt_label=3, extra=1)
    )
    inputs = packed['inputs']
    assert set(inputs) == {'patch_view', 'token_view', 'mask'}
    assert inputs['patch_view'].dtype == inputs['token_view'].dtype == torch.uint8
    assert inputs['patch_view'].shape == (3, 16, 24) and inputs['mask'].dtype == torch.bool
    for channel, bgr in enumerate((2, 1, 0)):
        assert np.array_equal(inputs['patch_view'][channel], image[..., bgr])
        assert np.array_equal(inputs['token_view'][channel], view[..., bgr])
    assert np.array_equal(inputs['mask'], mask)
    assert packed['data_samples'].img_path == 'a.jpg' and packed['data_samples'].gt_label == 3
    assert 'extra' not in packed['data_samples']


def test_packing_takes_what_there_is():
    assert set(PackViews()(dict(patch_view=photo(8, 8)))['inputs']) == {'patch_view'}

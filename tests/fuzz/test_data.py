"""Masks, views, data sets and samplers with any settings; images of any size and kind."""

import math
from itertools import islice

import bad_files
import numpy as np
import pytest
import torch
from data.test_check_samples import CASES, dataset
from fuzz.chance import any_int, examples, mostly, refused, wrong
from hypothesis import given
from hypothesis import strategies as st
from mmengine.registry import init_default_scope
from PIL import Image

from beit_mm.data.blockwise_mask import BlockwiseMask, RandomMask
from beit_mm.data.color_jitter import ColorJitter
from beit_mm.data.image_list import ImageList
from beit_mm.data.seeded import KeyedSampler
from beit_mm.data.seeded_dataset import SeededDataset
from beit_mm.data.two_views import PackViews, TwoViews
from beit_mm.models.pretrainer import select_masked_patches
from beit_mm.registry import DATASETS

pytestmark = pytest.mark.any_stack

FUZZED = {
    'BlockwiseMask', 'CheckSamples', 'ColorJitter', 'ImageList', 'KeyedSampler', 'PackViews',
    'RandomMask', 'SeededDataset', 'TwoViews',
}  # fmt: skip
pair = st.tuples(st.integers(1, 16), st.integers(1, 16))
seeds, sizes = st.integers(0, 2**32 - 1), st.tuples(st.integers(1, 60), st.integers(1, 60))


@examples(200)
@given(
    kind=st.sampled_from([BlockwiseMask, RandomMask]), seed=seeds,
    grid=mostly(st.one_of(st.integers(2, 16), pair), st.one_of(st.integers(-2, 1), wrong)),
    num_masked=mostly(st.integers(1, 100), st.one_of(st.integers(-2, 270), wrong)),
    min_block=mostly(st.integers(1, 16), st.one_of(any_int, wrong)),
)  # fmt: skip
def test_a_mask_with_any_settings_is_refused_or_ends(kind, grid, num_masked, min_block, seed):
    how = dict(grid=grid, num_masked=num_masked)
    if kind is BlockwiseMask:
        how['min_block'] = min_block
    try:
        transform = kind(**how)
    except Exception as error:
        return refused(error, **how)
    np.random.seed(seed)
    mask = transform.transform({})['mask']
    assert mask.shape == ((grid, grid) if isinstance(grid, int) else grid) and mask.dtype == bool
    assert mask.sum() == num_masked if kind is RandomMask else mask.sum() <= num_masked
    index, valid = select_masked_patches(torch.from_numpy(mask)[None], num_masked)
    assert index.shape == (1, num_masked) and valid.sum() == mask.sum()


characters = st.characters(exclude_categories=['Cs', 'Cc', 'Zs', 'Zl', 'Zp'])
words = st.lists(st.text(characters, min_size=1), min_size=1, max_size=2)


@examples(60)
@given(
    names=st.lists(words.map(' '.join), max_size=8), with_label=st.booleans(),
    end=st.sampled_from(['\n', '\r\n']), last=st.booleans(),
    indices=st.none() | st.integers(1, 9) | st.integers(-9, -1) | st.sampled_from([[1, 0], range(1, 2)]),
)  # fmt: skip
def test_a_list_of_any_names_is_refused_or_has_mmpretrains_samples(
    tmp_path_factory, names, with_label, end, last, indices
):
    init_default_scope('beit_mm')
    path = tmp_path_factory.mktemp('list') / 'list.txt'
    lines = [f'{name} {i}' if with_label else name for i, name in enumerate(names)]
    path.write_bytes((end.join(lines) + end * last).encode())
    given = dict(ann_file=str(path), data_prefix='root', with_label=with_label, indices=indices)
    try:
        ours = ImageList(**given)
    except ValueError as error:
        assert str(path) in str(error) and not names
        return 'refused'
    except IndexError:
        assert isinstance(indices, list | range) and len(names) < 2
        return 'refused'
    theirs = DATASETS.build(dict(given, type='mmpretrain.CustomDataset'))
    assert len(ours) == len(theirs)
    for index in range(len(ours)):
        assert ours.get_data_info(index) == theirs.get_data_info(index)
    if indices is not None:
        part = ImageList(**given | dict(indices=None)).get_subset(indices)
        assert len(part) == len(ours)
        assert all(
            part.get_data_info(i - len(part)) == ours.get_data_info(i) for i in range(len(ours))
        )


strength = mostly(st.sampled_from([0, 0.4, 2.0]), st.one_of(wrong, st.just(-0.1)))
ranges = st.sampled_from([(1, 0), (0, 2), (2, 1), (0, 1)])


@examples(100)
@given(
    image=sizes, gray=st.integers(0, 255), seed=seeds, size=mostly(st.integers(1, 40)),
    token_size=mostly(st.one_of(st.integers(1, 40), st.none())),
    scale=mostly(st.sampled_from([None, (0.08, 1.0), [0.5, 0.5]]), st.one_of(wrong, ranges)),
    ratio=mostly(st.sampled_from([(3 / 4, 4 / 3), [1, 1]]), st.one_of(wrong, ranges.filter(lambda r: r != (0, 2)))),
    interpolation=mostly(st.sampled_from(['bicubic', 'nearest'])),
    token_interpolation=mostly(st.sampled_from(['lanczos', 'box'])),
    backend=mostly(st.sampled_from(['pillow', 'torch'])),
    jitter=st.fixed_dictionaries(dict(brightness=strength, contrast=strength, saturation=strength)),
)  # fmt: skip
def test_views_with_any_settings_are_refused_or_keep_gray_gray(image, gray, seed, jitter, **how):
    try:
        transforms = ColorJitter(**jitter), TwoViews(**how), PackViews()
    except Exception as error:
        return refused(error, **how, **jitter)
    np.random.seed(seed)
    packed = dict(img=np.full((*image, 3), gray, np.uint8), sample_idx=seed)
    for transform in transforms:
        packed = transform(packed)
    sides = dict(patch_view=how['size'], token_view=how['token_size'])
    assert packed['data_samples'].sample_idx == seed
    assert set(packed['inputs']) == {name for name, side in sides.items() if side is not None}
    for name, view in packed['inputs'].items():
        assert view.shape == (3, sides[name], sides[name])
        view = view.numpy().astype(int)
        assert np.ptp(view, axis=0).max() <= 1 and np.ptp(view, axis=(1, 2)).max() == 0
        assert any(jitter.values()) or (view == gray).all()


# -- data sets and samplers --------------------------------------------------------------------------


@examples(80)
@given(
    length=st.integers(1, 30), ranks=st.integers(1, 4), shuffle=st.booleans(),
    infinite=st.booleans(), seed=mostly(seeds, wrong.filter(lambda value: value is not None)),
    skipped=st.integers(0, 40), epoch=st.integers(0, 9),
)  # fmt: skip
def test_ranks_together_get_the_keys_of_one_rank(
    length, ranks, shuffle, infinite, seed, skipped, epoch
):
    try:
        samplers = [KeyedSampler(range(length), shuffle, seed, infinite) for _ in range(ranks + 1)]
    except Exception as error:
        return refused(error, seed=seed)
    alone, *samplers = samplers
    for rank, sampler in enumerate(samplers):
        sampler.rank, sampler.world_size = rank, ranks
        sampler.set_epoch(epoch)
    alone.set_epoch(epoch)
    number = 2 * length if infinite else len(samplers[0])
    per_rank = [list(islice(sampler, number)) for sampler in samplers]
    together = [key for turn in zip(*per_rank, strict=True) for key in turn]
    expected = list(islice(alone, len(together)))
    padding = [] if infinite else (expected * ranks)[: len(together) - length]  # the first again
    assert together == expected + padding
    for start in range(0, len(expected) - length + 1, length):
        epochs, indices = zip(*expected[start : start + length], strict=True)
        assert sorted(indices) == list(range(length))
        assert set(epochs) == {start // length if infinite else epoch}
    skipped = min(skipped, number)
    samplers[0].skip(skipped)
    assert list(islice(samplers[0], number - skipped)) == per_rank[0][skipped:]


sides = st.one_of(st.integers(1, 80), st.sampled_from([1, 2, 3, 90, 500]))


@examples(60)
@given(
    case=st.sampled_from(CASES), size=st.tuples(sides, sides), content=seeds,
    mode=st.sampled_from(['RGB', 'L', 'P', '1', 'RGBA', 'CMYK']),
    cut=st.one_of(*[st.just(0)] * 5, st.integers(1, 300)), epoch=st.integers(0, 5),
    seed=mostly(st.integers(0, 2**32)), on_bad_sample=mostly(st.sampled_from(['raise', 'skip'])),
    max_bad_share=mostly(st.sampled_from([0, 0.01, 0.5]), st.one_of(wrong, st.just(1))),
    max_pixels=mostly(st.sampled_from([10**6, 2000])),
)  # fmt: skip
def test_any_image_is_named_or_gives_a_sample_by_seed_and_epoch(
    tmp_path_factory, case, size, content, mode, cut, epoch, **how
):
    root = tmp_path_factory.mktemp('images')
    pixels = np.random.default_rng(content).integers(0, 256, (*size, 3), np.uint8)
    is_jpeg = mode == 'CMYK' or (content % 2 and mode in ('RGB', 'L'))
    image = bad_files.encoded(Image.fromarray(pixels).convert(mode), 'JPEG' if is_jpeg else 'PNG')
    bad_files.write(root / 'images/a.jpg', image[: len(image) - cut])
    bad_files.write(root / 'maps/a.png', bad_files.grey(pixels[..., 0] % 4))
    given = dataset(*case, root)
    try:
        built = SeededDataset(given, **how)
    except Exception as error:
        return refused(error, **how)
    try:
        inputs = built[epoch, 0]['inputs']
    except ValueError as error:
        assert 'a.jpg' in str(error), error
        assert cut or max(size) > 100 * min(size) or math.prod(size) > how['max_pixels'], error
        return 'refused'
    again = SeededDataset(given, **how)[epoch, 0]['inputs']
    both = [list(each.values() if isinstance(each, dict) else each) for each in (inputs, again)]
    for one, other in zip(*both, strict=True):
        assert torch.equal(one, other) and one.numel() and one.dtype in (torch.uint8, torch.bool)

"""Masks, views, data sets and samplers of any settings; images of any size and kind through every pipeline."""

import bad_files
import numpy as np
import pytest
import torch
from fuzz.chance import any_int, examples, mostly, refused, wrong
from hypothesis import given
from hypothesis import strategies as st
from mmengine.registry import init_default_scope
from PIL import Image
from small import load, nodes

from beit_mm.data.blockwise_mask import BlockwiseMask, RandomMask
from beit_mm.data.color_jitter import ColorJitter
from beit_mm.data.guard import read_only
from beit_mm.data.image_list import ImageList
from beit_mm.data.reading import BadSample
from beit_mm.data.seeded import KeyedSampler, SeededDataset
from beit_mm.data.two_views import PackViews, TwoViews
from beit_mm.models.pretrainer import select_masked_patches

pytestmark = pytest.mark.any_stack

FUZZED = {
    'BlockwiseMask', 'ColorJitter', 'CheckSamples', 'ImageList', 'KeyedSampler', 'PackViews', 'RandomMask', 'SeededDataset',
    'TwoViews',
}  # fmt: skip
pair = st.tuples(st.integers(1, 16), st.integers(1, 16))


@examples(200)
@given(
    kind=st.sampled_from([BlockwiseMask, RandomMask]),
    grid=mostly(st.one_of(st.integers(2, 16), pair), st.one_of(st.integers(-2, 1), wrong)),
    num_masked=mostly(st.integers(1, 100), st.one_of(st.integers(-2, 270), wrong)),
    min_block=mostly(st.integers(1, 16), st.one_of(any_int, wrong)),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_mask_of_any_settings_is_refused_or_ends_within_its_budget(
    kind, grid, num_masked, min_block, seed
):
    how = dict(min_block=min_block) if kind is BlockwiseMask else {}
    try:
        transform = kind(grid=grid, num_masked=num_masked, **how)
    except Exception as error:
        return refused(error, grid=grid, num_masked=num_masked, **how)
    np.random.seed(seed)
    mask = transform.transform({})['mask']
    assert mask.shape == ((grid, grid) if isinstance(grid, int) else grid) and mask.dtype == bool
    assert mask.sum() == num_masked if kind is RandomMask else mask.sum() <= num_masked
    index, valid = select_masked_patches(torch.from_numpy(mask)[None], num_masked)
    assert index.shape == (1, num_masked) and valid.sum() == mask.sum()


strength = mostly(st.sampled_from([0, 0.4, 2.0]), st.one_of(wrong, st.just(-0.1)))


@examples(60)
@given(
    image=st.tuples(st.integers(1, 60), st.integers(1, 60)), gray=st.integers(0, 255), seed=st.integers(0, 2**32 - 1),
    brightness=strength, contrast=strength, saturation=strength,
)  # fmt: skip
def test_a_jitter_of_any_settings_is_refused_or_leaves_gray_gray(image, gray, seed, **how):
    try:
        jitter = ColorJitter(**how)
    except Exception as error:
        return refused(error, **how)
    np.random.seed(seed)
    results = TwoViews(size=8)(jitter(dict(img=np.full((*image, 3), gray, np.uint8))))
    view = results['patch_view'].astype(int)
    assert np.ptp(view, axis=-1).max() <= 1 and np.ptp(view, axis=(0, 1)).max() == 0
    assert any(how.values()) or (view == gray).all()


@examples(40)
@given(
    names=st.lists(st.text(st.characters(exclude_categories=['Cs', 'Cc', 'Zs', 'Zl', 'Zp']), min_size=1), max_size=8),
    labels=st.booleans(), end=st.sampled_from(['\n', '\r\n']), last=st.booleans(), indices=st.none() | st.integers(1, 9),
)  # fmt: skip
def test_a_list_of_any_names_is_refused_or_gives_each_line(
    tmp_path_factory, names, labels, end, last, indices
):
    path = tmp_path_factory.mktemp('list') / 'list.txt'
    path.write_bytes(
        (end.join(f'{n} {i}' if labels else n for i, n in enumerate(names)) + end * last).encode()
    )
    images = ImageList(
        str(path), 'root', with_label=labels, indices=indices, pipeline=[], lazy_init=True
    )
    try:
        assert len(images) == len(names[:indices])
    except ValueError as error:
        assert str(path) in str(error) and not names
        return 'refused'
    for index, name in enumerate(names[:indices]):
        wanted = dict(img_path=f'root/{name}', sample_idx=index) | (
            dict(gt_label=index) if labels else {}
        )
        assert images.get_data_info(index) == wanted


@examples(80)
@given(
    image=st.tuples(st.integers(1, 60), st.integers(1, 60)), size=mostly(st.integers(1, 40)),
    token_size=mostly(st.one_of(st.integers(1, 40), st.none())),
    scale=mostly(st.sampled_from([None, (0.08, 1.0), [0.5, 0.5]]), st.one_of(wrong, st.sampled_from([(1, 0), (0, 2)]))),
    ratio=mostly(st.sampled_from([(3 / 4, 4 / 3), [1, 1]]), st.one_of(wrong, st.sampled_from([(2, 1), (0, 1)]))),
    interpolation=mostly(st.sampled_from(['bicubic', 'nearest'])),
    token_interpolation=mostly(st.sampled_from(['lanczos', 'box'])), backend=mostly(st.sampled_from(['pillow', 'torch'])),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_views_of_any_settings_are_refused_or_there_for_an_image_of_any_size(image, seed, **how):
    np.random.seed(seed)
    try:
        views = TwoViews(**how)
    except Exception as error:
        return refused(error, **how)
    out = views(dict(img=np.random.randint(0, 256, (*image, 3), np.uint8)))
    assert out['patch_view'].shape == (how['size'], how['size'], 3)
    assert ('token_view' in out) is (how['token_size'] is not None)
    packed = PackViews()(dict(out, mask=np.zeros((2, 2), bool), img_path='a.jpg', sample_idx=seed))
    assert packed['inputs']['patch_view'].shape == (3, how['size'], how['size'])
    assert (
        packed['inputs']['patch_view'].numpy()[::-1].transpose(1, 2, 0) == out['patch_view']
    ).all()
    assert packed['data_samples'].img_path == 'a.jpg' and packed['data_samples'].sample_idx == seed


# -- data sets and samplers --------------------------------------------------------------------------------------------------


@examples(80)
@given(
    length=st.integers(1, 30), ranks=st.integers(1, 4), shuffle=st.booleans(), infinite=st.booleans(),
    seed=mostly(st.integers(0, 2**32 - 1), wrong.filter(lambda value: value is not None)),
    skipped=st.integers(0, 40), epoch=st.integers(0, 9),
)  # fmt: skip
def test_a_sampler_hands_out_each_index_once_an_epoch(
    length, ranks, shuffle, infinite, seed, skipped, epoch
):
    try:
        samplers = [KeyedSampler(range(length), shuffle, seed, infinite) for _ in range(ranks)]
    except Exception as error:
        return refused(error, seed=seed)
    for rank, sampler in enumerate(samplers):
        sampler.rank, sampler.world_size = rank, ranks
        sampler.set_epoch(epoch)
    per_rank = 2 * length if infinite else len(samplers[0])
    drawn = [
        [key for key, _ in zip(sampler, range(per_rank), strict=False)] for sampler in samplers
    ]
    together = [key for turn in zip(*drawn, strict=True) for key in turn]
    for start in range(0, len(together) - length + 1, length):
        assert sorted(index for _, index in together[start : start + length]) == list(range(length))
        assert len({of for of, _ in together[start : start + length]}) == 1
    skipped = min(skipped, per_rank)
    samplers[0].skip(skipped)
    assert [key for key, _ in zip(samplers[0], range(per_rank - skipped), strict=False)] == drawn[
        0
    ][skipped:]


@pytest.fixture(scope='module')
def numbered(tmp_path_factory):
    """Eight images of one class, of which the fourth is no image."""
    folder = tmp_path_factory.mktemp('numbered')
    for i in range(8):
        bad_files.write(
            folder / f'cat/{i}.jpg', b'no image' if i == 3 else bad_files.jpeg(size=(8, 8))
        )
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackInputs'),
    ]
    return dict(
        type='mmpretrain.CustomDataset',
        data_root=str(folder),
        pipeline=pipeline,
        serialize_data=False,
    )


@examples(40)
@given(
    seed=mostly(st.integers(0, 2**32)), on_bad_sample=mostly(st.sampled_from(['raise', 'skip'])),
    max_bad_share=mostly(st.sampled_from([0, 0.01, 0.5]), st.one_of(wrong, st.just(1))),
    max_pixels=mostly(st.sampled_from([10**6, 64, 63])), epoch=st.integers(0, 5), index=st.integers(0, 7),
)  # fmt: skip
def test_a_data_set_of_any_settings_is_refused_or_a_function_of_seed_epoch_and_index(
    numbered, epoch, index, **how
):
    init_default_scope('mmpretrain')
    try:
        data = SeededDataset(numbered, **how)
    except Exception as error:
        return refused(error, **how)
    bad = set(range(8)) if how['max_pixels'] < 64 else {3}
    try:
        one = data[epoch, index]
    except ValueError as error:
        assert index in bad and ('.jpg' in str(error) or 'samples are bad' in str(error))
        return 'refused'
    assert index not in bad or how['on_bad_sample'] == 'skip'
    again = SeededDataset(numbered, **how)[epoch, index]
    assert one['data_samples'].img_path == again['data_samples'].img_path and torch.equal(
        one['inputs'], again['inputs']
    )


# -- images ----------------------------------------------------------------------------------------------------------------

TASKS = dict(
    tokenizer='quickstart/tokenizer',
    tokenizer_large='tokenizer/dvae_64xb8-coslr-3000k_in1k-256px',
    pretrain='pretrain/beit_vit-base-p16_8xb256-amp-coslr-800e_in1k',
    classification='classification/vit-base-p16_8xb128-amp-coslr-100e_in1k',
    segmentation='segmentation/vit-base_setr-pup_8xb2-amp-160k_ade20k-512x512',
)
CASES = [(task, split) for task in TASKS for split in ('train', 'test')]


@pytest.fixture(scope='module')
def pipelines() -> dict:
    found = {}
    for task, split in CASES:
        cfg = load(TASKS[task])
        own = next(node for node in nodes(cfg[f'{split}_dataloader'].dataset) if 'pipeline' in node)
        found[task, split] = cfg.default_scope, cfg.to_dict(), own.to_dict()['pipeline']
    return found


sides = st.one_of(st.integers(1, 80), st.sampled_from([1, 2, 3, 90, 500]))


@examples(50)
@given(
    case=st.sampled_from(CASES), size=st.tuples(sides, sides), mode=st.sampled_from(['RGB', 'L', 'P', '1', 'RGBA', 'CMYK']),
    cut=st.one_of(*[st.just(0)] * 5, st.integers(1, 300)), seed=st.integers(0, 99),
)  # fmt: skip
def test_an_image_of_any_size_and_kind_goes_through_every_pipeline_or_is_named(
    pipelines, tmp_path_factory, case, size, mode, cut, seed
):
    scope, _, pipeline = pipelines[case]
    init_default_scope(scope)
    folder, (h, w) = tmp_path_factory.mktemp('images'), size
    pixels = np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)
    name, kind = (
        ('a.jpg', 'JPEG')
        if mode == 'CMYK' or (seed % 2 and mode in ('RGB', 'L'))
        else ('a.png', 'PNG')
    )
    content = bad_files.encoded(Image.fromarray(pixels).convert(mode), kind)
    if scope == 'mmseg':
        bad_files.write(folder / f'images/{name}', content[: len(content) - cut])
        bad_files.write(folder / 'maps/a.png', bad_files.grey(pixels[..., 0] % 4))
        data = dict(
            type='BaseSegDataset', data_root=str(folder), img_suffix=name[1:], pipeline=pipeline, serialize_data=False,
            data_prefix=dict(img_path='images', seg_map_path='maps'), reduce_zero_label=True,
            metainfo=dict(classes='abc', palette=[[0, 0, 0]] * 3),
        )  # fmt: skip
    else:
        bad_files.write(folder / f'cat/{name}', content[: len(content) - cut])
        data = dict(
            type='mmpretrain.CustomDataset',
            data_root=str(folder),
            pipeline=pipeline,
            serialize_data=False,
        )
    try:
        built = SeededDataset(data, seed)
        read_only(built.dataset, 0)
        sample = built[0]
    except ValueError as error:
        assert isinstance(error, BadSample) and name in str(error), error
        assert cut or max(size) > 100 * min(size), error
        return 'refused'
    inputs = sample['inputs']
    views = list(inputs.values()) if isinstance(inputs, dict) else [inputs]
    assert all(view.dtype in (torch.uint8, torch.bool) and view.numel() for view in views)

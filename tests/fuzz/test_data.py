"""Masks, views, data sets and samplers with any settings; images of any size and kind."""

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
from beit_mm.data.image_files import BadSample
from beit_mm.data.image_list import ImageList
from beit_mm.data.keyed_sampler import KeyedSampler
from beit_mm.data.loaders import read_sample
from beit_mm.data.seeded_dataset import SeededDataset
from beit_mm.data.two_views import PackViews, TwoViews
from beit_mm.models.pretrainer import select_masked_patches

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


strength = mostly(st.sampled_from([0, 0.4, 2.0]), st.one_of(wrong, st.just(-0.1)))


@examples(60)
@given(image=sizes, gray=st.integers(0, 255), seed=seeds,
       brightness=strength, contrast=strength, saturation=strength)  # fmt: skip
def test_a_jitter_with_any_settings_is_refused_or_keeps_gray_gray(image, gray, seed, **how):
    try:
        jitter = ColorJitter(**how)
    except Exception as error:
        return refused(error, **how)
    np.random.seed(seed)
    results = TwoViews(size=8)(jitter(dict(img=np.full((*image, 3), gray, np.uint8))))
    view = results['patch_view'].astype(int)
    assert np.ptp(view, axis=-1).max() <= 1 and np.ptp(view, axis=(0, 1)).max() == 0
    assert any(how.values()) or (view == gray).all()


characters = st.characters(exclude_categories=['Cs', 'Cc', 'Zs', 'Zl', 'Zp'])


@examples(40)
@given(
    names=st.lists(st.text(characters, min_size=1), max_size=8), labels=st.booleans(),
    end=st.sampled_from(['\n', '\r\n']), last=st.booleans(), indices=st.none() | st.integers(1, 9),
)  # fmt: skip
def test_a_list_of_any_names_is_refused_or_gives_each_line(
    tmp_path_factory, names, labels, end, last, indices
):
    path = tmp_path_factory.mktemp('list') / 'list.txt'
    lines = [f'{name} {i}' if labels else name for i, name in enumerate(names)]
    path.write_bytes((end.join(lines) + end * last).encode())
    images = ImageList(str(path), 'root', labels, indices=indices, pipeline=[], lazy_init=True)
    try:
        assert len(images) == len(names[:indices])
    except ValueError as error:
        assert str(path) in str(error) and not names
        return 'refused'
    for index, name in enumerate(names[:indices]):
        label = dict(gt_label=index) if labels else {}
        wanted = dict(img_path=f'root/{name}', sample_idx=index) | label
        assert images.get_data_info(index) == wanted


ranges = st.sampled_from([(1, 0), (0, 2), (2, 1), (0, 1)])


@examples(80)
@given(
    image=sizes, seed=seeds, size=mostly(st.integers(1, 40)),
    token_size=mostly(st.one_of(st.integers(1, 40), st.none())),
    scale=mostly(st.sampled_from([None, (0.08, 1.0), [0.5, 0.5]]), st.one_of(wrong, ranges)),
    ratio=mostly(st.sampled_from([(3 / 4, 4 / 3), [1, 1]]), st.one_of(wrong, ranges.filter(lambda r: r != (0, 2)))),
    interpolation=mostly(st.sampled_from(['bicubic', 'nearest'])),
    token_interpolation=mostly(st.sampled_from(['lanczos', 'box'])),
    backend=mostly(st.sampled_from(['pillow', 'torch'])),
)  # fmt: skip
def test_views_with_any_settings_are_refused_or_made_of_any_image(image, seed, **how):
    np.random.seed(seed)
    try:
        views = TwoViews(**how)
    except Exception as error:
        return refused(error, **how)
    out = views(dict(img=np.random.randint(0, 256, (*image, 3), np.uint8)))
    assert out['patch_view'].shape == (how['size'], how['size'], 3)
    assert ('token_view' in out) is (how['token_size'] is not None)
    packed = PackViews()(dict(out, sample_idx=seed))
    assert packed['inputs']['patch_view'].shape == (3, how['size'], how['size'])
    assert packed['data_samples'].sample_idx == seed


# -- data sets and samplers --------------------------------------------------------------------------


@examples(80)
@given(
    length=st.integers(1, 30), ranks=st.integers(1, 4), shuffle=st.booleans(),
    infinite=st.booleans(), seed=mostly(seeds, wrong.filter(lambda value: value is not None)),
    skipped=st.integers(0, 40), epoch=st.integers(0, 9),
)  # fmt: skip
def test_a_sampler_gives_each_index_once_per_epoch(
    length, ranks, shuffle, infinite, seed, skipped, epoch
):
    try:
        samplers = [KeyedSampler(range(length), shuffle, seed, infinite) for _ in range(ranks)]
    except Exception as error:
        return refused(error, seed=seed)
    for rank, sampler in enumerate(samplers):
        sampler.rank, sampler.world_size = rank, ranks
        sampler.set_epoch(epoch)

    def draw(sampler: KeyedSampler, number: int) -> list:
        return [key for key, _ in zip(sampler, range(number), strict=False)]

    per_rank = 2 * length if infinite else len(samplers[0])
    drawn = [draw(sampler, per_rank) for sampler in samplers]
    together = [key for turn in zip(*drawn, strict=True) for key in turn]
    for start in range(0, len(together) - length + 1, length):
        epochs, indices = zip(*together[start : start + length], strict=True)
        assert sorted(indices) == list(range(length)) and len(set(epochs)) == 1
    skipped = min(skipped, per_rank)
    samplers[0].skip(skipped)
    assert draw(samplers[0], per_rank - skipped) == drawn[0][skipped:]


@pytest.fixture(scope='module')
def numbered(tmp_path_factory):
    """Return a data set of eight files, of which the fourth is no image."""
    folder = tmp_path_factory.mktemp('numbered')
    for i in range(8):
        content = b'no image' if i == 3 else bad_files.jpeg(size=(8, 8))
        bad_files.write(folder / f'cat/{i}.jpg', content)
    steps = [
        dict(type='LoadImageFromFile'),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackInputs'),
    ]
    kind = 'mmpretrain.CustomDataset'
    return dict(type=kind, data_root=str(folder), pipeline=steps, serialize_data=False)


@examples(40)
@given(
    seed=mostly(st.integers(0, 2**32)), on_bad_sample=mostly(st.sampled_from(['raise', 'skip'])),
    max_bad_share=mostly(st.sampled_from([0, 0.01, 0.5]), st.one_of(wrong, st.just(1))),
    max_pixels=mostly(st.sampled_from([10**6, 64, 63])), epoch=st.integers(0, 5),
    index=st.integers(0, 7),
)  # fmt: skip
def test_a_data_set_with_any_settings_is_refused_or_a_function_of_seed_epoch_and_index(
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
    assert one['data_samples'].img_path == again['data_samples'].img_path
    assert torch.equal(one['inputs'], again['inputs'])


# -- images ------------------------------------------------------------------------------------------

TASKS = dict(
    tokenizer='quickstart/tokenizer',
    tokenizer_large='tokenizer/dvae_64xb8-coslr-3000k_in1k-256px',
    pretrain='pretrain/beit_vit-base-p16_8xb256-amp-coslr-800e_in1k',
    classification='classification/vit-base-p16_8xb128-amp-coslr-100e_in1k',
    segmentation='segmentation/vit-base_setr-pup_8xb2-amp-160k_ade20k-512x512',
)
CASES = [(task, split) for task in TASKS for split in ('train', 'test')]
sides = st.one_of(st.integers(1, 80), st.sampled_from([1, 2, 3, 90, 500]))


@pytest.fixture(scope='module')
def pipelines() -> dict:
    found = {}
    for task, split in CASES:
        cfg = load(TASKS[task])
        own = next(node for node in nodes(cfg[f'{split}_dataloader'].dataset) if 'pipeline' in node)
        found[task, split] = cfg.default_scope, own.to_dict()['pipeline']
    return found


@examples(50)
@given(
    case=st.sampled_from(CASES), size=st.tuples(sides, sides), seed=st.integers(0, 99),
    mode=st.sampled_from(['RGB', 'L', 'P', '1', 'RGBA', 'CMYK']),
    cut=st.one_of(*[st.just(0)] * 5, st.integers(1, 300)),
)  # fmt: skip
def test_any_image_passes_every_pipeline_or_is_named(
    pipelines, tmp_path_factory, case, size, mode, cut, seed
):
    scope, pipeline = pipelines[case]
    init_default_scope(scope)
    folder = tmp_path_factory.mktemp('images')
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    is_jpeg = mode == 'CMYK' or (seed % 2 and mode in ('RGB', 'L'))
    content = bad_files.encoded(Image.fromarray(pixels).convert(mode), 'JPEG' if is_jpeg else 'PNG')
    name = 'a.jpg' if is_jpeg else 'a.png'
    bad_files.write(folder / f'images/{name}', content[: len(content) - cut])
    data = dict(type='mmpretrain.CustomDataset', data_root=str(folder))
    if scope == 'mmseg':
        bad_files.write(folder / 'maps/a.png', bad_files.grey(pixels[..., 0] % 4))
        data = dict(
            type='BaseSegDataset', data_root=str(folder), img_suffix=name[1:],
            data_prefix=dict(img_path='images', seg_map_path='maps'), reduce_zero_label=True,
            metainfo=dict(classes='abc', palette=[[0, 0, 0]] * 3),
        )  # fmt: skip
    try:
        built = SeededDataset(dict(data, pipeline=pipeline, serialize_data=False), seed)
        read_sample(built.dataset, 0)
        sample = built[0]
    except ValueError as error:
        assert isinstance(error, BadSample) and name in str(error), error
        assert cut or max(size) > 100 * min(size), error
        return 'refused'
    inputs = sample['inputs']
    views = list(inputs.values()) if isinstance(inputs, dict) else [inputs]
    assert all(view.dtype in (torch.uint8, torch.bool) and view.numel() for view in views)

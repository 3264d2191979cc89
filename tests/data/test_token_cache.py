"""A token cache holds, to the bit, what the tokenizer would say; whatever happens while it is made; or it is refused."""

import json
import multiprocessing
import os
import pickle
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from shapes import draw as shapes
from small import backbone, load, nodes, shrink

from beit_mm.checkpoint.files import read_file
from beit_mm.data import token_cache
from beit_mm.data.seeded_dataset import SeededDataset
from beit_mm.data.token_cache import TokenCache
from beit_mm.engine import cache_tokens
from beit_mm.engine.launch import build_runner
from beit_mm.models import TokenTarget
from beit_mm.registry import DATASETS, MODELS

pytestmark = pytest.mark.usefixtures('unformatted')
IMAGES, CROPS, TOTAL, BROKEN_AT = 12, 2, 24, 15  # four epochs of six batches of two


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    """Shapes, and a tokenizer whose ids of them differ."""
    out = tmp_path_factory.mktemp('cache') / 'shapes'
    shapes.write(
        out, train=IMAGES, val=4, segmentation_train=2, segmentation_val=2, labels=(IMAGES,), jobs=1
    )
    return out


def config(data: Path, folder: Path, **dataset: object) -> Config:
    """The quickstart's pre-training, small, with drop path; `dataset`: arguments of its SeededDataset."""
    torch.manual_seed(0)
    cfg = shrink(load('quickstart/pretrain'), data, folder)
    tokenizer, target = data / 'tokenizer.pth', cfg.model.target
    if not tokenizer.exists():
        dvae = MODELS.build(target.tokenizer)
        dvae.init_codebook(torch.rand(8, 3, 32, 32) * torch.rand(8, 3, 1, 1))
        torch.save(dict(state_dict=dvae.state_dict()), tokenizer)
    target.checkpoint = str(tokenizer)
    backbone(cfg).drop_path_rate = 0.5
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        next(node for node in nodes(loader.dataset) if 'pipeline' in node).indices = IMAGES
    cfg.train_dataloader.dataset.update(dataset)
    cfg.train_cfg.update(max_iters=TOTAL, val_interval=TOTAL)
    cfg.default_hooks.logger = dict(type='LoggerHook', interval=1)
    cfg.default_hooks.checkpoint.interval = BROKEN_AT
    return cfg


@pytest.fixture(scope='module')
def cache(data, tmp_path_factory) -> Path:
    """Made by the tool, in blocks of five images; tests must not change it."""
    return make(data, tmp_path_factory.mktemp('tokens') / 'tokens')


def make(data: Path, path: Path, num_crops: int = CROPS, split: str = 'train') -> Path:
    cfg = config(data, path.parent / f'config_{path.name}')
    cfg.dump(path.parent / 'config.py')
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch)
        words = [
            str(path.parent / 'config.py'),
            '--out',
            str(path),
            '--crops',
            str(num_crops),
            '--jobs',
            '0',
        ]
        cache_tokens.main([*words, '--split', split])
    return path


def small_blocks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(token_cache, 'BLOCK', 5)
    patch.setattr(cache_tokens, 'BLOCK', 5)


@pytest.fixture(autouse=True)
def blocks(monkeypatch) -> None:
    small_blocks(monkeypatch)


def dataset(cfg: Config, split: str = 'train') -> SeededDataset:
    init_default_scope('beit_mm')
    return DATASETS.build(cfg[f'{split}_dataloader'].dataset)


def online(cfg: Config, inputs: dict) -> torch.Tensor:
    target = MODELS.build(cfg.model.target)
    with torch.no_grad():
        return target(dict(token_view=inputs['token_view'][None].float() / 255))[0]


def trained(cfg: Config) -> tuple[dict, dict]:
    """What each iteration logged, and the weights at the end."""
    build_runner(cfg).train()
    folder = Path(cfg.work_dir)
    lines = [
        json.loads(line)
        for path in folder.rglob('scalars.json')
        for line in path.read_text().splitlines()
    ]
    logged = {
        line['step']: (line['loss'], line['masked_accuracy']) for line in lines if 'loss' in line
    }
    return logged, read_file(folder / f'iter_{TOTAL}.pth')['state_dict']


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[key]) for key, value in one.items()
    )


# -- cached is online ----------------------------------------------------------------------------------------------------


def test_cached_ids_are_those_of_the_very_crop_of_each_view_and_image(data, cache, tmp_path):
    cached = dataset(config(data, tmp_path / 'a', token_cache=str(cache)))
    plain = dataset(cfg := config(data, tmp_path / 'b', num_crops=CROPS))
    seen = []
    for epoch in range(2 * CROPS):
        for index in range(IMAGES):
            inputs, expected = cached[epoch, index]['inputs'], plain[epoch, index]['inputs']
            assert (
                inputs.keys() == {'patch_view', 'token_ids', 'mask'}
                and inputs['token_ids'].dtype == torch.int64
            )
            assert torch.equal(inputs['patch_view'], expected['patch_view'])
            assert torch.equal(inputs['mask'], expected['mask'])
            assert torch.equal(inputs['token_ids'], online(cfg, expected))
            seen.append(inputs['token_ids'])
    assert (
        len(torch.stack(seen).unique()) > 8
    )  # a tokenizer that always says the same would prove nothing
    assert len(torch.stack(seen).flatten(1).unique(dim=0)) == CROPS * IMAGES


def test_a_view_comes_again_with_another_mask_and_up_to_then_nothing_is_different(data, tmp_path):
    repeated, plain = (
        dataset(config(data, tmp_path / 'a', num_crops=CROPS)),
        dataset(config(data, tmp_path / 'b')),
    )
    masks = set()
    for epoch in range(4 * CROPS):
        inputs, first, always = (
            one['inputs']
            for one in (repeated[epoch, 3], repeated[epoch % CROPS, 3], plain[epoch, 3])
        )
        masks.add(inputs['mask'].numpy().tobytes())
        for view in ('patch_view', 'token_view'):
            assert torch.equal(inputs[view], first[view])
            assert torch.equal(inputs[view], always[view]) is (epoch < CROPS)
        assert torch.equal(inputs['mask'], always['mask']) is (epoch < CROPS)
    assert len(masks) == 4 * CROPS


def test_a_run_with_the_cache_is_the_run_with_the_tokenizer(data, cache, tmp_path):
    """And it needs no weights of the tokenizer, though it tells whose tokens it has learned."""
    cfg = config(data, tmp_path / 'cached', token_cache=str(cache))
    cfg.model.target.checkpoint = None
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.train_dataloader.update(num_workers=2, persistent_workers=True)
    logged, weights = trained(cfg)
    plain_logged, plain_weights = trained(config(data, tmp_path / 'online', num_crops=CROPS))
    assert len(logged) == TOTAL and logged == plain_logged and same(weights, plain_weights)
    assert (
        weights['target_fingerprint']
        == MODELS.build(config(data, tmp_path / 'c').model.target).fingerprint()
    )


def test_with_as_many_views_as_epochs_it_is_the_run_that_knows_no_views(data, tmp_path):
    whole = make(data, tmp_path / 'all', num_crops=TOTAL * 2 // IMAGES)
    logged, weights = trained(config(data, tmp_path / 'cached', token_cache=str(whole)))
    plain_logged, plain_weights = trained(config(data, tmp_path / 'online'))
    assert logged == plain_logged and same(weights, plain_weights)


def test_a_resumed_run_with_a_cache_is_as_if_it_had_gone_through(data, cache, tmp_path):
    cfg = config(data, tmp_path / 'whole', token_cache=str(cache))
    cfg.optim_wrapper.accumulative_counts = 4
    logged, weights = trained(cfg)
    cfg = config(data, tmp_path / 'again', token_cache=str(cache))
    cfg.optim_wrapper.accumulative_counts = 4
    cfg.resume, cfg.load_from = True, str(tmp_path / f'whole/iter_{BROKEN_AT}.pth')
    torch.manual_seed(999), np.random.seed(999)
    again, again_weights = trained(cfg)
    assert again == {step: values for step, values in logged.items() if step > BROKEN_AT}
    assert same(weights, again_weights)


def test_validation_reads_a_cache_of_its_own(data, tmp_path):
    cache = make(data, tmp_path / 'val', num_crops=1, split='val')
    cfg = config(data, tmp_path / 'run')
    plain = dataset(cfg, 'val')
    cfg.val_dataloader.dataset.token_cache = str(cache)
    for index, sample in enumerate(dataset(cfg, 'val')):
        assert torch.equal(sample['inputs']['token_ids'], online(cfg, plain[index]['inputs']))
        if index == 3:
            break
    trained(cfg)


def test_where_a_bad_sample_is_skipped_the_ids_are_those_of_its_replacement(data, tmp_path):
    skip = dict(on_bad_sample='skip', max_bad_share=0.5)
    cfg = config(data, tmp_path / 'work', **skip)
    root = cfg.train_dataloader.dataset.dataset.data_root = str(
        shutil.copytree(data / 'imagenet', tmp_path / 'imagenet')
    )
    bad = [line.split()[0] for line in Path(root, 'meta/train.txt').read_text().splitlines()][4]
    Path(root, 'train', bad).write_text('no image')
    cfg.dump(tmp_path / 'config.py')
    words = ['--out', str(tmp_path / 'tokens'), '--crops', str(CROPS), '--jobs', '0']
    cache_tokens.main([str(tmp_path / 'config.py'), *words])
    plain = dataset(cfg)
    cfg.train_dataloader.dataset.token_cache = str(tmp_path / 'tokens')
    cached = dataset(cfg)
    plain.num_crops = CROPS
    for key in [(0, 4), (1, 4), (1, 3)]:
        sample, expected = cached[key], plain[key]
        assert sample['data_samples'].img_path == expected['data_samples'].img_path
        assert torch.equal(sample['inputs']['token_ids'], online(cfg, expected['inputs']))


# -- made whatever happens -----------------------------------------------------------------------------------------------


def whole(cache: Path) -> dict[str, bytes]:
    return {name: (cache / name).read_bytes() for name in ('ids', 'done', 'names', 'probe.npy')}


@pytest.mark.long
def test_killed_at_any_write_what_is_marked_is_right_and_the_same_command_goes_on(
    data, cache, tmp_path
):
    """At each call of pwrite and fsync, before and behind it, until a run comes to its end."""
    path, expected = (
        tmp_path / 'killed',
        np.fromfile(cache / 'ids', '<u2').reshape(CROPS, IMAGES, -1),
    )
    codes, calls = [], 0
    while not codes or codes[-1]:
        child = multiprocessing.get_context('fork').Process(
            target=dies, args=(data, path, calls % 5)
        )
        child.start(), child.join()
        codes.append(child.exitcode)
        calls += 1
        if (path / 'about.json').exists():
            done = np.fromfile(path / 'done', np.uint8).reshape(CROPS, -1).astype(bool)
            marked = done.repeat(5, axis=1)[:, :IMAGES]
            ids = np.fromfile(path / 'ids', '<u2').reshape(expected.shape)
            assert (ids[marked] == expected[marked]).all()
            if codes[-1]:
                with pytest.raises(
                    ValueError,
                    match=r'is not finished: \d of 6 blocks are missing. The command that',
                ):
                    TokenCache(path).check_finished()
        assert calls < 60
    assert codes.count(-signal.SIGKILL) >= 6
    assert whole(path) == whole(cache)
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith('.')] == []


def dies(data: Path, path: Path, at: int) -> None:
    """Makes the cache until the call number `at` of those that write."""
    left = [at]

    def deadly(call):
        def wrapped(*args):
            left[0] -= 1
            if left[0] == -1:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args)

        return wrapped

    for name in ('pwrite', 'fsync'):
        setattr(os, name, deadly(getattr(os, name)))
    torch.set_num_threads(1)
    make(data, path)


def test_who_comes_second_goes_on_with_the_cache_of_the_first(cache, tmp_path):
    about = json.loads((cache / 'about.json').read_text())
    shape, paths = about.pop('shape'), [f'{i}.png' for i in range(IMAGES)]
    first = TokenCache.create(
        tmp_path / 'new', shape, about, paths, np.zeros((4, 3, 8, 8), np.uint8)
    )
    first.write(1, 2, np.full((2, *first.grid), 7))
    second = TokenCache.create(
        tmp_path / 'new', shape, about, paths[::-1], np.ones((4, 3, 8, 8), np.uint8)
    )
    assert (
        len(second.todo()) == 5
        and second.read(1, 11, '11.png').tolist() == np.full(first.grid, 7).tolist()
    )
    assert [each.name for each in tmp_path.iterdir()] == ['new']


@pytest.mark.parametrize('code', [0, 1, 8191, 65535])
def test_ids_of_16_bits_are_kept(code, cache, tmp_path):
    path = Path(shutil.copytree(cache, tmp_path / 'copy'))
    own = TokenCache(path)
    before = own.todo()
    own.write(1, 2, np.full((2, *own.grid), code))
    assert (
        np.fromfile(path / 'ids', '<u2').reshape(CROPS, IMAGES, -1)[1, 10:].tolist()
        == [[code] * 64] * 2
    )
    assert len(before) == len(own.todo()) == 0


def test_workers_do_not_copy_the_ids(data, cache, tmp_path):
    cached = dataset(config(data, tmp_path, token_cache=str(cache)))
    cached[0, 0]
    assert cached.tokens._maps and not pickle.loads(pickle.dumps(cached.tokens))._maps
    assert all(
        isinstance(each, np.memmap) and not each.flags.writeable
        for each in cached.tokens._maps.values()
    )


# -- refused -------------------------------------------------------------------------------------------------------------


def test_another_seed_is_refused(data, cache, tmp_path):
    with pytest.raises(
        ValueError,
        match=r'something else\. seed: the cache has 0, the run 3\. Set this back, or make',
    ):
        dataset(config(data, tmp_path, token_cache=str(cache), seed=3))


def test_another_pipeline_is_refused_and_the_step_is_named(data, cache, tmp_path):
    cfg = config(data, tmp_path, token_cache=str(cache))
    cfg.train_dataloader.dataset.dataset.pipeline[1].prob = 0.4
    with pytest.raises(
        ValueError,
        match=r"pipeline: the cache has .*'prob': 0\.5, .*}, the run .*'prob': 0\.4, .*}",
    ):
        dataset(cfg)
    cfg.train_dataloader.dataset.dataset.pipeline.pop(1)
    with pytest.raises(ValueError, match=r'pipeline: the cache has '):
        dataset(cfg)


def test_another_mask_is_not_refused(data, cache, tmp_path):
    cfg = config(data, tmp_path, token_cache=str(cache))
    cfg.train_dataloader.dataset.dataset.pipeline[3].num_masked = 20
    assert dataset(cfg)[0, 0]['inputs']['mask'].sum() <= 20


def test_another_number_of_images_is_refused(data, cache, tmp_path):
    cfg = config(data, tmp_path, token_cache=str(cache))
    next(node for node in nodes(cfg.train_dataloader.dataset) if 'pipeline' in node).indices = 11
    with pytest.raises(ValueError, match='list: it has 12 images, the data set 11'):
        dataset(cfg)


@pytest.mark.parametrize('at_start', [True, False])
def test_another_list_is_refused_at_the_start_or_when_the_image_is_read(
    at_start, data, cache, tmp_path, monkeypatch
):
    cfg = config(data, tmp_path / 'run', token_cache=str(cache))
    path = Path(cfg.train_dataloader.dataset.dataset.data_root, 'meta/train.txt')
    lines = path.read_text().splitlines()
    other = Path(
        shutil.copytree(path.parents[1], tmp_path / 'imagenet')
    )  # a moved folder is no other list
    cfg.train_dataloader.dataset.dataset.data_root = str(other)
    assert dataset(cfg)[0, 5]['inputs']['token_ids'].shape == (8, 8)
    (other / 'meta/train.txt').write_text('\n'.join([*lines[:5], lines[6], lines[5], *lines[7:]]))
    words = rf'list: .*{Path(lines[6].split()[0]).name} is not the image at place 5'
    if at_start:
        with pytest.raises(ValueError, match=words):
            dataset(cfg)
    else:
        monkeypatch.setattr(token_cache, 'LOOKS', 2)
        found = dataset(cfg)
        found[0, 4]
        with pytest.raises(ValueError, match=words):
            found[0, 5]


def test_other_images_under_the_same_names_are_refused(data, cache, tmp_path):
    cfg = config(data, tmp_path / 'run', token_cache=str(cache))
    root = Path(
        shutil.copytree(cfg.train_dataloader.dataset.dataset.data_root, tmp_path / 'imagenet')
    )
    images = sorted((root / 'train').rglob('*.*'))
    images = [each for each in images if each.is_file()]
    content = [each.read_bytes() for each in images]
    for image, other in zip(images, content[1:] + content[:1], strict=True):
        image.write_bytes(other)
    cfg.train_dataloader.dataset.dataset.data_root = str(root)
    with pytest.raises(
        ValueError, match=r'it says the same and makes other crops \(\d+ grey levels apart\)'
    ):
        dataset(cfg)


@pytest.mark.parametrize('given', [True, False])
def test_another_tokenizer_is_refused(given, data, cache, tmp_path):
    """Given, or told by the checkpoint that the run resumes."""
    cfg = config(data, tmp_path / 'run', token_cache=str(cache))
    other = MODELS.build(cfg.model.target.tokenizer)
    torch.save(dict(state_dict=other.state_dict()), tmp_path / 'other.pth')
    cfg.model.target.checkpoint = str(tmp_path / 'other.pth')
    if not given:
        plain = config(data, tmp_path / 'plain')
        plain.model.target.checkpoint = cfg.model.target.checkpoint
        trained(plain)
        cfg.model.target.checkpoint = None
        cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
        cfg.resume, cfg.load_from = True, str(tmp_path / f'plain/iter_{BROKEN_AT}.pth')
    words = (
        r'something else\. tokenizer: the cache has \d+, the run \d+'
        if given
        else 'set model.target.checkpoint, or the cache,'
    )
    with pytest.raises(ValueError, match=words):
        build_runner(cfg).train()


def test_a_model_that_predicts_no_tokens_is_refused(data, cache, tmp_path):
    cfg = config(data, tmp_path, token_cache=str(cache))
    cfg.model.target = dict(type='PixelTarget', patch_size=8)
    cfg.model.head.out_channels = 192
    with pytest.raises(
        ValueError, match='holds visual tokens, but the model predicts none: remove token_cache'
    ):
        build_runner(cfg).train()


def test_a_wrong_use_says_what_to_do(data, cache, tmp_path):
    for dataset_of, words in [
        (
            dict(token_cache=str(tmp_path / 'none')),
            r'is no token cache: make it with `python tools/cache_tokens.py CONFIG',
        ),
        (
            dict(token_cache=str(cache), num_crops=3),
            r'num_crops=3, but the token cache .* has 2: remove num_crops',
        ),
        (dict(num_crops=0), 'num_crops=0: expected an integer, at least 1'),
    ]:
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            dataset(config(data, tmp_path / 'run', **dataset_of))
    cfg = config(data, tmp_path / 'run', num_crops=2)
    cfg.train_dataloader.dataset.dataset.pipeline = cfg.train_dataloader.dataset.dataset.pipeline[
        :1
    ]
    with pytest.raises(ValueError, match=r'num_crops=2 needs beit_mm\.TwoViews in the pipeline'):
        dataset(cfg)


def test_a_target_that_was_given_weights_does_not_believe_a_cache(data, tmp_path):
    target: TokenTarget = MODELS.build(config(data, tmp_path).model.target)
    target.cached_fingerprint = 5
    assert target.fingerprint() != 5
    target.checkpoint = None
    assert target.fingerprint() == 5

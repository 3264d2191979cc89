"""A token cache has the tokens that the tokenizer would compute, to the bit, or is refused."""

import itertools
import os
import pickle
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from small import backbone, find_dataset, load, read_scalars, same_tensors, shrink
from trials import toy

from beit_mm.checkpoint.files import read_file
from beit_mm.data import token_cache
from beit_mm.data.seeded_dataset import SeededDataset
from beit_mm.data.token_cache import TokenCache
from beit_mm.engine import cache_tokens
from beit_mm.engine.launch import build_runner
from beit_mm.registry import DATASETS, MODELS

pytestmark = pytest.mark.usefixtures('unformatted')
IMAGES, CROPS, TOTAL, INTERRUPTED = 12, 2, 24, 15  # four epochs of six batches of two
FILES = ('ids', 'done', 'names', 'probe.npy')


def config(data: Path, folder: Path, **dataset: object) -> Config:
    """Return the quickstart's pre-training, small, with a tokenizer whose ids of the images differ.

    `dataset` are arguments of its SeededDataset.
    """
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
        find_dataset(loader).indices = IMAGES
    cfg.train_dataloader.dataset.update(dataset)
    cfg.train_cfg.update(max_iters=TOTAL, val_interval=TOTAL)
    cfg.default_hooks.logger = dict(type='LoggerHook', interval=1)
    cfg.default_hooks.checkpoint.interval = INTERRUPTED
    return cfg


@pytest.fixture(scope='module', autouse=True)
def small_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (token_cache, cache_tokens):
            patch.setattr(module, 'BLOCK', 5)
        yield


@pytest.fixture(scope='module')
def cache(few_shapes, small_blocks, tmp_path_factory) -> Path:
    """Return a cache in blocks of five images, which tests must not change."""
    root = tmp_path_factory.mktemp('cache')
    return make(config(few_shapes, root / 'work'), root / 'tokens')


def make(cfg: Config, path: Path, num_crops: int = CROPS, split: str = 'train') -> Path:
    cfg.dump(path.parent / 'config.py')
    words = [path.parent / 'config.py', '--out', path, '--crops', num_crops, '--jobs', 0]
    cache_tokens.main([*map(str, words), '--split', split])
    return path


def dataset(cfg: Config, split: str = 'train') -> SeededDataset:
    init_default_scope('beit_mm')
    return DATASETS.build(cfg[f'{split}_dataloader'].dataset)


def trained(cfg: Config) -> tuple[dict, dict]:
    """Return what each iteration logged, and the weights at the end."""
    build_runner(cfg).train()
    lines = [line for line in read_scalars(Path(cfg.work_dir)) if 'loss' in line]
    logged = {line['step']: (line['loss'], line['masked_accuracy']) for line in lines}
    return logged, read_file(Path(cfg.work_dir, f'iter_{TOTAL}.pth'))['state_dict']


def test_cached_ids_are_those_of_each_crop_and_image(few_shapes, cache, tmp_path):
    cached = dataset(config(few_shapes, tmp_path / 'a', token_cache=str(cache)))
    plain = dataset(cfg := config(few_shapes, tmp_path / 'b', num_crops=CROPS))
    target, seen = MODELS.build(cfg.model.target), []
    for key in itertools.product(range(2 * CROPS), range(IMAGES)):
        inputs, expected = cached[key]['inputs'], plain[key]['inputs']
        assert inputs.keys() == {'patch_view', 'token_ids', 'mask'}
        assert inputs['token_ids'].dtype == torch.int64
        assert torch.equal(inputs['patch_view'], expected['patch_view'])
        assert torch.equal(inputs['mask'], expected['mask'])
        token_view = expected['token_view'][None].float() / 255
        assert torch.equal(inputs['token_ids'], target(dict(token_view=token_view))[0])
        seen.append(inputs['token_ids'])
    assert len(torch.stack(seen).unique()) > 8  # equal ids would prove nothing
    assert len(torch.stack(seen).flatten(1).unique(dim=0)) == CROPS * IMAGES


def test_a_repeated_crop_has_another_mask_and_the_first_epochs_are_unchanged(few_shapes, tmp_path):
    repeated = dataset(config(few_shapes, tmp_path / 'a', num_crops=CROPS))
    plain = dataset(config(few_shapes, tmp_path / 'b'))
    masks = set()
    for epoch in range(4 * CROPS):
        samples = repeated[epoch, 3], repeated[epoch % CROPS, 3], plain[epoch, 3]
        inputs, first, always = (sample['inputs'] for sample in samples)
        masks.add(inputs['mask'].numpy().tobytes())
        for view in ('patch_view', 'token_view'):
            assert torch.equal(inputs[view], first[view])
            assert torch.equal(inputs[view], always[view]) is (epoch < CROPS)
        assert torch.equal(inputs['mask'], always['mask']) is (epoch < CROPS)
    assert len(masks) == 4 * CROPS


@pytest.mark.parametrize('num_crops', [CROPS, TOTAL * 2 // IMAGES])
def test_a_run_with_caches_is_the_run_with_the_tokenizer_and_resumes_exactly(
    num_crops, few_shapes, tmp_path
):
    """It needs no weights of the tokenizer, and as many crops as epochs need no `num_crops`."""

    def run(name: str, *splits: str, **dataset) -> tuple[dict, dict]:
        cfg = config(few_shapes, tmp_path / name, **dataset)
        cfg.optim_wrapper.accumulative_counts = 4
        cfg.train_dataloader.update(num_workers=2, persistent_workers=True)
        for split in splits:
            cfg[f'{split}_dataloader'].dataset.token_cache = str(tmp_path / f'{split}_tokens')
            cfg.model.target.checkpoint = None
        if name == 'resumed':
            cfg.resume, cfg.load_from = True, str(tmp_path / f'cached/iter_{INTERRUPTED}.pth')
        return trained(cfg)

    for split, crops in dict(train=num_crops, val=1).items():
        make(
            cfg := config(few_shapes, tmp_path / 'made'), tmp_path / f'{split}_tokens', crops, split
        )
    plain, plain_weights = run('plain', **dict(num_crops=CROPS) if num_crops == CROPS else {})
    logged, weights = run('cached', 'train', 'val')
    assert len(logged) == TOTAL and logged == plain and same_tensors(weights, plain_weights)
    assert weights['target_fingerprint'] == MODELS.build(cfg.model.target).fingerprint()
    torch.manual_seed(5), np.random.seed(5)
    resumed, resumed_weights = run('resumed', 'train', 'val')
    assert resumed == {step: values for step, values in logged.items() if step > INTERRUPTED}
    assert same_tensors(weights, resumed_weights)


@pytest.mark.long
def test_a_kill_at_any_write_leaves_right_ids_and_the_same_command_continues(
    few_shapes, cache, tmp_path
):
    path, calls, codes = tmp_path / 'killed', 0, [1]
    expected = np.fromfile(cache / 'ids', '<u2').reshape(CROPS, IMAGES, -1)
    while codes[-1]:
        cfg = config(few_shapes, tmp_path / 'work')
        child = toy.start(dies, cfg, path, calls % 5, log=tmp_path / 'log')
        child.join()
        codes.append(child.exitcode)
        calls += 1
        if (path / 'about.json').exists():
            done = np.fromfile(path / 'done', np.uint8).reshape(CROPS, -1).astype(bool)
            marked = done.repeat(5, axis=1)[:, :IMAGES]
            ids = np.fromfile(path / 'ids', '<u2').reshape(expected.shape)
            assert (ids[marked] == expected[marked]).all()
            if codes[-1]:
                with pytest.raises(ValueError, match=r'not finished: \d of 6 blocks are missing'):
                    TokenCache(path).check_finished()
        assert calls < 60
    assert codes.count(-signal.SIGKILL) >= 6
    assert all((path / name).read_bytes() == (cache / name).read_bytes() for name in FILES)
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith('.')] == []


def dies(cfg: Config, path: Path, at: int) -> None:
    """Write the cache until the `at`-th flush to the disk, before or after it."""
    left, fsync = [at], os.fsync

    def deadly(*args):
        left[0] -= 1
        if left[0] == -1:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(*args)
        if left[0] == 0 and at % 2:
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = deadly
    make(cfg, path)


def test_a_second_creator_opens_the_cache_of_the_first(few_shapes, tmp_path):
    path, images = tmp_path / 'caches/new', dataset(config(few_shapes, tmp_path, num_crops=CROPS))
    first = TokenCache.create(path, (8, 8), dict(tokenizer=1), images)
    first.write(1, 2, np.full((2, 8, 8), 65535))
    second = TokenCache.create(path, (8, 8), dict(tokenizer=2), images)
    assert len(second.list_missing()) == 5 and second.about['tokenizer'] == 1
    assert (second.read(1, 11, images.path_of(11)) == 65535).all()
    assert [each.name for each in path.parent.iterdir()] == ['new']


def test_ids_are_mapped_and_not_pickled(cache):
    opened = TokenCache(cache)
    assert isinstance(opened._ids, np.memmap) and not opened._ids.flags.writeable
    assert '_ids' not in vars(pickle.loads(pickle.dumps(opened)))


# -- refusals ----------------------------------------------------------------------------------------

# changes to the SeededDataset, changes to the data set inside of it, what is said (None: nothing)
CHANGES = [
    (dict(seed=3), lambda data: None, 'seed: the cache has 0, the run 3'),
    (dict(num_crops=3), lambda data: None, 'has 2: remove num_crops'),
    (dict(token_cache='none'), lambda data: None, 'none has no token cache. Create one: `python'),
    ({}, lambda data: data.update(indices=11), 'list: it has 12 images, the data set 11'),
    ({}, lambda data: data.pipeline.pop(1), 'pipeline: the cache has '),
    ({}, lambda data: data.pipeline[1].update(prob=0.4), "pipeline: .*'prob': 0.5, .*}, the run .*'prob': 0.4"),
    ({}, lambda data: data.pipeline[3].update(num_masked=20), None),
    (dict(token_cache=None, num_crops=2), lambda data: data.update(pipeline=data.pipeline[:1]),
     'num_crops=2 needs TwoViews in the pipeline'),
]  # fmt: skip


@pytest.mark.parametrize('settings, change, message', CHANGES)
def test_another_seed_pipeline_or_list_is_refused(
    settings, change, message, few_shapes, cache, tmp_path
):
    cfg = config(few_shapes, tmp_path, **dict(token_cache=str(cache)) | settings)
    change(find_dataset(cfg.train_dataloader))
    if message is None:
        assert dataset(cfg)[0, 0]['inputs']['mask'].sum() <= 20
        return
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        dataset(cfg)


def moved(data: Path, cache: Path, folder: Path) -> tuple[Config, Path]:
    """Return a config whose images were copied to another place, which is no other list."""
    cfg = config(data, folder / 'run', token_cache=str(cache))
    root = Path(shutil.copytree(find_dataset(cfg.train_dataloader).data_root, folder / 'imagenet'))
    find_dataset(cfg.train_dataloader).data_root = str(root)
    assert dataset(cfg)[0, 5]['inputs']['token_ids'].shape == (8, 8)
    return cfg, root


def test_another_order_is_refused_at_the_start_or_when_an_image_is_read(
    few_shapes, cache, tmp_path, monkeypatch
):
    cfg, root = moved(few_shapes, cache, tmp_path)
    lines = (root / 'meta/train.txt').read_text().splitlines()
    lines[5:7] = lines[6], lines[5]
    (root / 'meta/train.txt').write_text('\n'.join(lines))
    message = rf'list: .*{Path(lines[5].split()[0]).name} is not its image 5'
    with pytest.raises(ValueError, match=message):
        dataset(cfg)
    monkeypatch.setattr(token_cache, 'NAMES_CHECKED', 2)
    found = dataset(cfg)
    found[0, 4]
    with pytest.raises(ValueError, match=message):
        found[0, 5]


def test_other_images_with_the_same_names_are_refused(few_shapes, cache, tmp_path):
    cfg, root = moved(few_shapes, cache, tmp_path)
    images = [path for path in sorted((root / 'train').rglob('*.*')) if path.is_file()]
    content = [path.read_bytes() for path in images]
    for path, other in zip(images, content[1:] + content[:1], strict=True):
        path.write_bytes(other)
    with pytest.raises(ValueError, match=r'its crops differ by \d+ gray levels'):
        dataset(cfg)


@pytest.mark.parametrize('given', [True, False])
def test_another_tokenizer_is_refused(given, few_shapes, cache, tmp_path):
    """Whether it is given or belongs to the checkpoint that the run resumes."""
    cfg = config(few_shapes, tmp_path / 'run', token_cache=str(cache))
    other = MODELS.build(cfg.model.target.tokenizer)
    torch.save(dict(state_dict=other.state_dict()), tmp_path / 'other.pth')
    cfg.model.target.checkpoint = str(tmp_path / 'other.pth')
    message = r'tokenizer: the cache has \d+, the run \d+'
    if not given:
        plain = config(few_shapes, tmp_path / 'plain')
        plain.model.target.checkpoint = cfg.model.target.checkpoint
        trained(plain)
        cfg.model.target.checkpoint = None
        cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
        cfg.resume, cfg.load_from = True, str(tmp_path / f'plain/iter_{INTERRUPTED}.pth')
        message = 'model.target.checkpoint'
    with pytest.raises(ValueError, match=message):
        build_runner(cfg).train()


def test_a_model_without_tokens_is_refused(few_shapes, cache, tmp_path):
    cfg = config(few_shapes, tmp_path, token_cache=str(cache))
    cfg.model.target, cfg.model.head.out_channels = dict(type='PixelTarget', patch_size=8), 192
    with pytest.raises(ValueError, match='remove token_cache'):
        build_runner(cfg).train()

"""Every config: it builds at its real size, says what the paper's tables say, and runs two iterations made small.

`shrink` makes any config of this project small enough for a CPU: other tests use it as well.
"""

import json
import math
import re
from itertools import count
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope
from mmseg.structures import SegDataSample

from beit_mm import checkpoint
from beit_mm.data import shapes
from beit_mm.engine.launch import build_runner
from beit_mm.registry import MODELS

ROOT = Path(__file__).parents[1]
CONFIGS = {
    str(path.relative_to(ROOT / 'configs'))[:-3]: path
    for path in sorted((ROOT / 'configs').rglob('*.py'))
    if '_base_' not in path.parts and path.stem != 'recipe'
}
FINETUNE = [name for name in CONFIGS if name.startswith(('classification/', 'segmentation/'))]
CLASSIFICATION = [name for name in FINETUNE if name.startswith('class')]
TRAINED = [name for name in FINETUNE if not name.endswith('_ms')]
ARCH = dict(embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=64)
TOKENIZER = dict(vocab_size=32, width=8, blocks=1, width_in=8)
_runs = count()


def load(name: str) -> Config:
    return Config.fromfile(CONFIGS[name])


def nodes(tree):
    """Every dict in a nested config."""
    if isinstance(tree, dict):
        yield tree
    for child in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else ():
        yield from nodes(child)


def kind(node) -> str:
    return str(node.get('type', '')).rpartition('.')[2]


def backbone(cfg) -> dict:
    return next(node for node in nodes(cfg.model) if kind(node) == 'BEiT')


@pytest.fixture(scope='session')
def data(tmp_path_factory) -> Path:
    """Twelve images of Shapes to train on, four to validate, in both layouts."""
    out = tmp_path_factory.mktemp('configs') / 'shapes'
    shapes.write(out, train=12, val=4, size=64, segmentation_train=12, segmentation_val=4, jobs=1)
    return out


@pytest.fixture(autouse=True)
def unformatted(monkeypatch):
    """A Runner lays its config out five times, for seconds, and nobody reads it here."""
    for module in ('yapf.yapflib.yapf_api', 'mmengine.config.config'):  # one stack imports it late, the other early
        monkeypatch.setattr(f'{module}.FormatCode', lambda text, **_: (text, True), raising=False)


def shrink(cfg: Config, data: Path | None, work_dir: Path) -> Config:
    """The config at toy size, in place: two batches of two from Shapes, a small arch, an eighth of a crop; of weights
    only those that are there. With `data` None it keeps its own data.

    A pre-training config gets a tokenizer that `work_dir` holds then.
    """
    init_default_scope(cfg.default_scope)
    cfg.work_dir, cfg.experiment_name = str(work_dir), f'{work_dir.name}_{next(_runs)}'
    for split, length in (('train', 4), ('val', 2), ('test', 1)):
        loader = cfg.get(f'{split}_dataloader')
        if not loader:
            continue
        loader.update(num_workers=0, batch_size=2 if split == 'train' else min(2, loader.batch_size))
        for key in ('persistent_workers', 'pin_memory', 'prefetch_factor'):
            loader.pop(key, None)
        dataset = next(node for node in nodes(loader.dataset) if 'pipeline' in node)
        dataset.indices = length
        if not data:
            continue
        ade = 'seg_map_path' in str(dataset.get('data_prefix'))
        dataset.data_root = str(data / ('ade20k' if ade else 'imagenet'))
        if 'ann_file' in dataset:
            dataset.ann_file = '' if ade else f'meta/{"train" if split == "train" else "val"}.txt'
    if cfg.train_cfg.type == 'EpochBasedTrainLoop':
        cfg.train_cfg.max_epochs = 1
    else:
        cfg.train_cfg.update(max_iters=2, val_interval=2)
    for node in nodes([cfg.get('val_evaluator'), cfg.get('test_evaluator')]):
        if 'vocab_size' in node:
            node.vocab_size = TOKENIZER['vocab_size']
    _shrink_model(cfg.model, work_dir)
    if cfg.default_scope == 'mmseg' and backbone(cfg).img_size > 224:
        _shrink_crops(cfg)
    return cfg


def _shrink_model(model: dict, work_dir: Path) -> None:
    _shrink_sizes(model)
    for node in nodes(model):
        if kind(node) == 'TokenTarget' and not _exists(node):
            path = work_dir / 'tokenizer.pth'
            work_dir.mkdir(parents=True, exist_ok=True)
            torch.save(dict(state_dict=MODELS.build(node.tokenizer).state_dict()), path)
            node.checkpoint = str(path)


def _exists(weights: dict | None) -> bool:
    return bool(weights and weights.get('checkpoint')) and Path(weights['checkpoint']).is_file()


def _shrink_sizes(model: dict) -> None:
    for node in nodes(model):
        if kind(node) == 'BEiT':
            node.update(arch=dict(ARCH), init_cfg=node.get('init_cfg') if _exists(node.get('init_cfg')) else None)
            if not isinstance(node.get('out_indices', -1), int):
                node.out_indices = (0, 1, 2, 3)[-len(node.out_indices) :]
        elif kind(node) == 'DiscreteVAE':
            node.update(TOKENIZER)
        elif kind(node) == 'LinearClsHead':
            node.update(in_channels=32, init_cfg=None)
        elif kind(node) == 'MIMHead':
            node.update(in_channels=32, out_channels=TOKENIZER['vocab_size'])
        elif kind(node) in ('SETRPUPHead', 'FCNHead', 'UPerHead'):
            node.update(in_channels=[32] * 4 if kind(node) == 'UPerHead' else 32, channels=8)
        elif kind(node) == 'Feature2Pyramid':
            node.update(embed_dim=32)


def _shrink_crops(cfg: Config) -> None:
    for node in nodes([cfg.model, cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader]):
        for key in ('img_size', 'size', 'crop_size', 'stride', 'scale'):
            if isinstance(node.get(key), int):
                node[key] //= 8
            elif isinstance(node.get(key), (list, tuple)):
                node[key] = tuple(side // 8 for side in node[key])


# -- it runs, small --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', CONFIGS)
def test_two_iterations_on_shapes(name, data, tmp_path):
    cfg = shrink(load(name), data, tmp_path)
    if name.endswith('_ms'):
        assert math.isfinite(build_runner(cfg).test()['mIoU'])
        return
    runner = build_runner(cfg)
    runner.train()
    assert runner.iter == 2
    trained = runner.optim_wrapper.optimizer.state
    assert [n for n, p in runner.model.named_parameters() if p.requires_grad and p not in trained] == []
    assert all(p.isfinite().all() for p in runner.model.parameters())
    if cfg.get('val_dataloader'):
        lines = [json.loads(line) for line in next(tmp_path.rglob('scalars.json')).read_text().splitlines()]
        metric = dict(mmpretrain='accuracy/top1', mmseg='mIoU').get(cfg.default_scope)
        assert metric is None or math.isfinite(lines[-1][metric])


def test_weights_go_on_from_224_to_384_pixels_and_to_segmentation(data, tmp_path):
    """The paper's chain: fine-tune, go on at 384 px with head and all, segment with the same backbone."""
    first = shrink(load('classification/vit-base-p16_8xb128-amp-coslr-100e_in1k'), data, tmp_path / 'first')
    build_runner(first).train()
    path = str(next((tmp_path / 'first').glob('epoch_1.pth')))
    source = checkpoint.load(path)[0]
    for name, size in (
        ('classification/vit-base-p16_8xb64-amp-coslr-10e_in1k-384px', 24),
        ('segmentation/vit-base_in1k-ft_setr-pup_8xb2-amp-160k_ade20k-512x512', 4),
    ):
        real, cfg = load(name), shrink(load(name), data, tmp_path / f'grid_{size}')
        backbone(cfg).init_cfg = dict(backbone(real).init_cfg, checkpoint=path)
        if 'head' in cfg.model:
            cfg.model.head.init_cfg = dict(real.model.head.init_cfg, checkpoint=path)
        runner = build_runner(cfg)
        runner.model.init_weights()
        state = runner.model.state_dict()
        same = [k for k in source if k.startswith(('backbone.blocks', 'backbone.patch', 'backbone.cls'))]
        same += [k for k in source if k.startswith('head.') and 'head' in cfg.model]
        assert len(same) > 40 and all(torch.equal(state[k], source[k]) for k in same)
        assert state['backbone.pos_embed'].shape == (1, size**2 + 1, 32)
        assert torch.equal(state['backbone.pos_embed'][:, 0], source['backbone.pos_embed'][:, 0])


def test_a_panorama_thinner_than_the_crop_is_padded_to_it(data, tmp_path):
    cfg = shrink(load('segmentation/vit-base_setr-pup_8xb2-amp-160k_ade20k-512x512'), data, tmp_path)
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model).eval()
    shape = (32, 200)
    sample = SegDataSample(metainfo=dict(ori_shape=shape, img_shape=shape))
    batch = dict(inputs=[torch.randint(256, (3, *shape), dtype=torch.uint8)], data_samples=[sample])
    with torch.no_grad():
        assert model.test_step(batch)[0].pred_sem_seg.shape == shape


# -- it is what the paper and the official code did ------------------------------------------------------------------

# Million parameters, as the official README gives them (heads for the data set included).
MILLIONS = {
    'pretrain/beit_beit-base-p16_8xb256-amp-coslr-800e_in1k': 91.97,  # unilm issue 383
    'tokenizer/dvae_64xb8-coslr-3000k_in1k-256px': 97.62,  # DALL-E's 53 786 240 + 43 829 766
    'classification/beit-base-p16_8xb128-amp-coslr-100e_in1k': 86.5,
    'classification/beit-large-p16_8xb128-amp-coslr-50e_in1k': 304.4,
    'classification/beit-base-p16_in22k-ft_8xb64-amp-coslr-30e_in1k-384px': 86.7,
    'classification/beit-large-p16_in22k-ft_8xb64-amp-coslr-30e_in1k-384px': 305.0,
    'segmentation/beit-base_in22k-ft_upernet_8xb2-amp-160k_ade20k-640x640': 163,
    'segmentation/beit-large_in22k-ft_upernet_8xb1-amp-320k_ade20k-640x640': 441,
}


@pytest.mark.parametrize('name', CONFIGS)
def test_builds_at_its_real_size(name):
    """Without a checkpoint at hand, and without memory for the weights."""
    cfg = load(name)
    init_default_scope(cfg.default_scope)
    if cfg.get('data_preprocessor'):
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    if name in MILLIONS:
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(
            MILLIONS[name], abs=0.06 if '.' in str(MILLIONS[name]) else 0.5
        )


# lr, layer decay, epochs, warm-up epochs, batch, weight decay, drop path, mixup and cutmix
IMAGENET = {
    'vit-base-p16_8xb128-amp-coslr-100e_in1k': (4e-3, 0.65, 100, 20, 1024, 0.05, 0.1, True),
    'vit-large-p16_8xb128-amp-coslr-50e_in1k': (1e-3, 0.75, 50, 5, 1024, 0.05, 0.2, True),
    'vit-base-p16_8xb64-amp-coslr-10e_in1k-384px': (2e-5, 0.85, 10, 1, 512, 1e-8, 0.1, True),
    'vit-large-p16_8xb64-amp-coslr-10e_in1k-384px': (2e-5, 0.9, 10, 1, 512, 1e-8, 0.2, True),
    'beit-base-p16_8xb128-amp-coslr-100e_in1k': (4e-3, 0.65, 100, 20, 1024, 0.05, 0.1, True),
    'beit-large-p16_8xb128-amp-coslr-50e_in1k': (1e-3, 0.75, 50, 5, 1024, 0.05, 0.2, True),
    'beit-base-p16_in22k-pre_8xb128-amp-coslr-100e_in1k': (4e-3, 0.65, 100, 20, 1024, 0.05, 0.1, True),
    'beit-large-p16_in22k-pre_8xb128-amp-coslr-50e_in1k': (1e-3, 0.75, 50, 5, 1024, 0.05, 0.2, True),
    'beit-base-p16_in22k-ft_8xb64-amp-coslr-30e_in1k': (2e-5, 0.85, 30, 5, 512, 1e-8, 0.1, False),
    'beit-base-p16_in22k-ft_8xb64-amp-coslr-30e_in1k-384px': (2e-5, 0.85, 30, 5, 512, 1e-8, 0.1, False),
    'beit-large-p16_in22k-ft_8xb64-amp-coslr-30e_in1k': (2e-5, 0.9, 30, 5, 512, 1e-8, 0.4, False),
    'beit-large-p16_in22k-ft_8xb64-amp-coslr-30e_in1k-384px': (2e-5, 0.9, 30, 5, 512, 1e-8, 0.4, False),
    'beit-base-p16_16xb256-amp-coslr-90e_in22k': (3e-3, 0.65, 90, 5, 4096, 0.05, 0.2, False),
    'beit-large-p16_16xb128-amp-coslr-90e_in22k': (2e-3, 0.75, 90, 5, 2048, 0.05, 0.2, False),
}
# lr, layer decay, iterations, images an update, warm-up, drop path, crop, stride, feature taps
ADE20K = {
    'vit-base_setr-pup_8xb2-amp-160k_ade20k-512x512': (1e-3, 0.65, 160000, 16, 1500, 0.1, 512, 341, (3, 5, 7, 11)),
    'vit-base_in1k-ft_setr-pup_8xb2-amp-160k_ade20k-512x512':
        (1e-3, 0.65, 160000, 16, 1500, 0.1, 512, 341, (3, 5, 7, 11)),
    'beit-base_upernet_8xb2-amp-160k_ade20k-512x512': (7e-4, 0.65, 160000, 16, 1500, 0.1, 512, 341, (3, 5, 7, 11)),
    'beit-base_in22k-ft_upernet_8xb2-amp-160k_ade20k-640x640':
        (3e-5, 0.9, 160000, 16, 1500, 0.1, 640, 426, (3, 5, 7, 11)),
    'beit-large_in22k-ft_upernet_8xb1-amp-320k_ade20k-640x640':
        (2e-5, 0.95, 320000, 16, 3000, 0.2, 640, 426, (7, 11, 15, 23)),
}  # fmt: skip


PRETRAIN = [name.split('/')[1] for name in CONFIGS if name.startswith('pretrain/')]
FOUND = re.compile(r'beit_(vit|beit)-(base|large)-p16_8xb256-amp-coslr-(800|300)e_in1k')


def gpus(name: str) -> int:
    return int(re.search(r'_(\d+)xb(\d+)', name)[1])


def test_the_tables_hold_every_recipe():
    assert {f'classification/{name}' for name in IMAGENET} == set(CLASSIFICATION)
    assert {f'segmentation/{name}' for name in ADE20K} == set(TRAINED) - set(CLASSIFICATION)
    assert len({FOUND.fullmatch(name).groups() for name in PRETRAIN}) == 8


@pytest.mark.parametrize('name', PRETRAIN)
def test_pretraining_recipe(name):
    cfg, (kind_of, size, epochs) = load(f'pretrain/{name}'), FOUND.fullmatch(name).groups()
    optimizer, model = cfg.optim_wrapper.optimizer, cfg.model
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 1.5e-3, 0.05)
    assert (optimizer.betas, optimizer.eps) == ((0.9, 0.999), 1e-8)
    assert cfg.optim_wrapper.constructor == 'LayerDecayConstructor' and 'paramwise_cfg' not in cfg.optim_wrapper
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=3.0 if size == 'base' else 1.0)
    assert cfg.train_cfg.max_epochs == int(epochs) and [s.end for s in cfg.param_scheduler] == [10, int(epochs)]
    assert cfg.auto_scale_lr.base_batch_size == 2048 == gpus(name) * cfg.train_dataloader.batch_size
    positions = dict(abs_pos_embed=True, rel_pos_bias=None, layer_scale=None)
    if kind_of == 'beit':
        positions = dict(abs_pos_embed=False, rel_pos_bias='shared', layer_scale=0.1 if size == 'base' else 1e-5)
    assert {key: model.backbone.get(key) for key in positions} == positions
    assert (model.backbone.arch, model.backbone.drop_path_rate) == (size, 0.1)
    assert model.data_preprocessor.mean == [123.675, 116.28, 103.53]
    jitter, flip, views, mask = cfg.train_dataloader.dataset.dataset.pipeline[1:5]
    assert (jitter.brightness, jitter.contrast, jitter.saturation, flip.prob) == (0.4, 0.4, 0.4, 0.5)
    assert (views.size, views.interpolation, views.token_size, views.token_interpolation) == (
        224, 'bicubic', 112, 'lanczos')  # fmt: skip
    assert (views.scale, views.ratio) == ((0.08, 1.0), (3 / 4, 4 / 3))
    assert (mask.grid, mask.budget, mask.min_block) == (14, 75, 16) and model.num_masked == 75


@pytest.mark.parametrize('name', ['beit_vit-base-p16_8xb256-amp-coslr-800e_in1k'])
def test_pretraining_has_one_cosine_over_steps(name):
    cfg, steps = load(f'pretrain/{name}'), 3
    rising, falling = 10 * steps, 790 * steps
    expected = [1e-6 + (1.5e-3 - 1e-6) * i / (rising - 1) for i in range(rising)]
    expected += [1e-5 + (1.5e-3 - 1e-5) * (1 + math.cos(math.pi * i / falling)) / 2 for i in range(falling)]
    assert rates(cfg, steps) == pytest.approx(expected, rel=1e-6)


def test_pretraining_without_a_tokenizer_stops_and_names_the_run_that_makes_one():
    cfg = load('pretrain/beit_vit-base-p16_8xb256-amp-coslr-800e_in1k')
    tokenizer = load(f'tokenizer/{cfg.tokenizer.split("/")[1]}')
    assert {k: v for k, v in cfg.model.target.tokenizer.items() if tokenizer.model[k] != v} == {}
    assert cfg.tokenizer.endswith(f'/iter_{tokenizer.train_cfg.max_iters}.pth') and not Path(cfg.tokenizer).exists()
    _shrink_sizes(cfg.model)
    init_default_scope(cfg.default_scope)
    with pytest.raises(FileNotFoundError, match=re.escape(cfg.tokenizer)):
        MODELS.build(cfg.model).init_weights()


def test_tokenizer_recipe():
    cfg = load('tokenizer/dvae_64xb8-coslr-3000k_in1k-256px')
    optimizer, model = cfg.optim_wrapper.optimizer, cfg.model
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 1e-4, 1e-4)
    assert (optimizer.betas, optimizer.eps) == ((0.9, 0.999), 1e-8)
    assert (model.vocab_size, model.width, model.groups, model.blocks, model.width_in) == (8192, 256, 4, 2, 128)
    assert model.likelihood == 'logit_laplace' and model.information_weight == model.marginal_weight == 1
    beta, temperature, ema = ({k: v for k, v in hook.items() if k != 'type'} for hook in cfg.custom_hooks)
    assert beta == dict(attribute='beta', start=0.0, end=6.6, iters=5_000)
    assert temperature == dict(attribute='temperature', start=1.0, end=1 / 16, iters=150_000)
    assert 1 - ema['momentum'] == 0.999
    assert cfg.train_cfg.max_iters == 3_000_000 and cfg.param_scheduler.end == 1_200_000
    assert cfg.auto_scale_lr.base_batch_size == 512 == 64 * cfg.train_dataloader.batch_size
    cfg.param_scheduler.end //= 1000
    cfg.param_scheduler = [cfg.param_scheduler, dict(cfg.param_scheduler, begin=1500, end=1501)]  # 300 steps after it
    falling = [1.25e-6 + (1e-4 - 1.25e-6) * (1 + math.cos(math.pi * i / 1200)) / 2 for i in range(1200)]
    assert rates(cfg, 1)[:1500] == pytest.approx(falling + [1.25e-6] * 300, rel=1e-2)


@pytest.mark.parametrize('name', IMAGENET)
def test_imagenet_recipe(name):
    cfg = load(f'classification/{name}')
    optimizer, model = cfg.optim_wrapper.optimizer, cfg.model
    lr, decay, epochs, warmup, batch, weight_decay, drop_path, mix = IMAGENET[name]
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', lr, weight_decay)
    assert (optimizer.betas, optimizer.eps) == ((0.9, 0.999), 1e-8)
    assert cfg.optim_wrapper.paramwise_cfg == dict(layer_decay_rate=decay)
    assert cfg.train_cfg.max_epochs == epochs
    assert [s.end for s in cfg.param_scheduler] == [warmup, epochs]
    assert cfg.auto_scale_lr.base_batch_size == batch == gpus(name) * cfg.train_dataloader.batch_size
    assert model.backbone.drop_path_rate == drop_path
    assert model.get('train_cfg') == (
        dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]) if mix else None
    )
    assert cfg.optim_wrapper.get('clip_grad') == {4096: dict(max_norm=3.0), 2048: dict(max_norm=1.0)}.get(batch)
    size, public = 384 if '384px' in name else 224, 'in22k' in name
    pipeline = cfg.train_dataloader.dataset.dataset.pipeline
    assert model.backbone.img_size == pipeline[1].scale == size
    assert cfg.data_preprocessor.mean == ([127.5] * 3 if public else [123.675, 116.28, 103.53])
    assert pipeline[4].fill_color == cfg.data_preprocessor.mean[::-1]
    assert pipeline[4].fill_std == cfg.data_preprocessor.std[::-1]
    if cfg.val_dataloader:
        resize, crop = cfg.val_dataloader.dataset.pipeline[1:3]
        assert (resize.scale, crop.crop_size) == ((384, 384) if size == 384 else (256, 224))
    positions = dict(abs_pos_embed=True, rel_pos_bias=None, layer_scale=None)
    if name.startswith('beit'):
        positions = dict(rel_pos_bias='per_layer', layer_scale=0.1 if 'base' in name else 1e-5)
    assert {key: model.backbone.get(key) for key in positions} == positions


@pytest.mark.parametrize('name', ADE20K)
def test_ade20k_recipe(name):
    cfg = load(f'segmentation/{name}')
    optimizer, model, crop_of = cfg.optim_wrapper.optimizer, cfg.model, cfg.train_dataloader.dataset.dataset.pipeline[3]
    lr, decay, iters, images, warmup, drop_path, crop, stride, taps = ADE20K[name]
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', lr, 0.05)
    upernet = 'upernet' in name
    assert cfg.optim_wrapper.paramwise_cfg == dict(
        layer_decay_rate=decay, **dict(decay_cls_token=True) if upernet else {}
    )
    assert cfg.train_cfg.max_iters == iters and [s.end for s in cfg.param_scheduler] == [warmup, iters]
    batch = gpus(name) * cfg.train_dataloader.batch_size
    assert cfg.auto_scale_lr.base_batch_size == batch
    assert batch * cfg.optim_wrapper.get('accumulative_counts', 1) == images
    assert (model.backbone.drop_path_rate, tuple(model.backbone.out_indices)) == (drop_path, taps)
    assert (crop_of.cat_max_ratio, tuple(crop_of.crop_size)) == (0.75, (crop, crop))
    assert model.test_cfg == dict(mode='slide', crop_size=(crop, crop), stride=(stride, stride))
    assert model.backbone.img_size == crop and tuple(model.data_preprocessor.size) == (crop, crop)
    tested = load(f'segmentation/{name}_ms')
    assert tested.model.module == cfg.model
    scales = [resize.scale[1] / crop for resize in tested.test_dataloader.dataset.pipeline[1].transforms[0]]
    assert scales == [1, 1, 1, 1.25, 1.5, 1.75]


def rates(cfg: Config, epoch_length: int) -> list[float]:
    """The learning rate of each step of the whole schedule."""
    lr = cfg.optim_wrapper.optimizer.lr
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr)
    schedulers = []
    for one in cfg.param_scheduler:
        one = dict(one, optimizer=optimizer)
        by_epoch = one.pop('convert_to_iter_based', False)
        build = PARAM_SCHEDULERS.get(one['type'])
        schedulers.append(
            build.build_iter_from_epoch(epoch_length=epoch_length, **{k: v for k, v in one.items() if k != 'type'})
            if by_epoch else build(**{k: v for k, v in one.items() if k != 'type'})
        )  # fmt: skip
    values = []
    for _ in range(max(s.end for s in schedulers)):
        values.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return values


@pytest.mark.parametrize('name', IMAGENET)
def test_warm_up_and_cosine_are_the_official_ones_at_every_step(name):
    cfg, steps = load(f'classification/{name}'), 4
    lr, _, epochs, warmup, *_ = IMAGENET[name]
    rising, falling = warmup * steps, (epochs - warmup) * steps
    expected = [1e-6 + (lr - 1e-6) * i / (rising - 1) for i in range(rising)]
    expected += [1e-6 + (lr - 1e-6) * (1 + math.cos(math.pi * i / falling)) / 2 for i in range(falling)]
    assert rates(cfg, steps) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('name', ADE20K)
def test_poly_under_warm_up_ends_where_the_run_ends(name):
    cfg, shorter = load(f'segmentation/{name}'), 100
    lr, _, iters, _, warmup, *_ = ADE20K[name]
    for scheduler in cfg.param_scheduler:
        scheduler.end //= shorter
    rising, total = warmup // shorter, iters // shorter
    expected = [lr * (1 - i / (total - 1)) * (1e-6 + (1 - 1e-6) * min(1, i / (rising - 1))) for i in range(total)]
    assert rates(cfg, 1) == pytest.approx(expected, rel=1e-6, abs=1e-12)


# -- it can be read, and what it starts from exists ------------------------------------------------------------------


@pytest.mark.parametrize('name', CONFIGS)
def test_head_tells_command_hardware_and_result(name):
    path = CONFIGS[name]
    head = path.read_text().split('_base_ =')[0][:1200]
    assert f'configs/{path.parent.name}/{path.name}' in head, 'the command names this file'
    assert re.search(r'GPU|core', head), 'the hardware'


@pytest.mark.parametrize('name', TRAINED)
def test_starts_from_public_weights_or_from_a_run_of_another_config(name):
    place = load(name).pretrained
    if place.startswith('work_dirs/'):
        assert any(Path(other).name == place.split('/')[1] for other in CONFIGS), place
    else:
        assert re.fullmatch(r'checkpoints/beit_(base|large)_patch16_224_pt22k(_ft22k)?\.pth', place)


def test_quickstart_names_what_shapes_draws():
    assert load('quickstart/classification').classes == list(shapes.SPECIES)
    cfg = load('quickstart/segmentation')
    assert (cfg.classes, cfg.palette) == (list(shapes.CLASSES), shapes.PALETTE)


@pytest.mark.parametrize('name', [name for name in CONFIGS if name.startswith('quickstart/')])
def test_checkpoints_that_a_quickstart_page_names_are_those_its_run_ends_with(name):
    for stage, last in re.findall(r'work_dirs/(?:quickstart/)?(\w+)/iter_(\d+)\.pth', CONFIGS[name].read_text()):
        assert load(f'quickstart/{stage}').train_cfg.max_iters == int(last)

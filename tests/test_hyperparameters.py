"""Every recipe says what the tables of the paper and of the official code say (recipes.py)."""

import re

import pytest
from recipes import ADE20K, IMAGENET, LINEAR_PROBE
from small import CLASSIFICATION, CONFIGS, TRAINED, load

PRETRAIN = [name for name in CONFIGS if name.startswith(('pretrain/', 'ablations/'))]
FOUND = re.compile(
    r'/beit_(vit|beit)-(base|large)-p16_(?:([\w-]+)_)?8xb256-amp-coslr-(800|300|150)e_(in1k|in22k)'
)


def gpus(name: str) -> int:
    return int(re.search(r'_(\d+)xb(\d+)', name)[1])


def test_the_tables_hold_every_recipe():
    assert {f'classification/{name}' for name in [*IMAGENET, *LINEAR_PROBE]} == set(CLASSIFICATION)
    assert {f'segmentation/{name}' for name in ADE20K} == set(TRAINED) - set(CLASSIFICATION)
    found = [FOUND.search(name).groups() for name in PRETRAIN]
    assert sum(not variant for _, _, variant, *_ in found) == 8 + 2
    assert {variant for _, _, variant, epochs, _ in found if variant and epochs == '300'} == {
        'random-mask', 'pixels', 'pixels_random-mask', 'recover-all', 'no-mask_recover-all', 'layer-scale'
    }  # fmt: skip


@pytest.mark.parametrize('name', PRETRAIN)
def test_pretraining_recipe(name):
    kind_of, size, variant, epochs, images = FOUND.search(name).groups(default='')
    cfg = load(name)
    optimizer, model = cfg.optim_wrapper.optimizer, cfg.model
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 1.5e-3, 0.05)
    assert (optimizer.betas, optimizer.eps) == ((0.9, 0.999), 1e-8)
    assert (
        cfg.optim_wrapper.constructor == 'LayerDecayConstructor'
        and 'paramwise_cfg' not in cfg.optim_wrapper
    )
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=3.0 if size == 'base' else 1.0)
    assert cfg.train_cfg.max_epochs == int(epochs)
    assert cfg.auto_scale_lr.base_batch_size == 2048 == gpus(name) * cfg.train_dataloader.batch_size
    positions = dict(
        abs_pos_embed=True, rel_pos_bias=None, layer_scale=0.1 if 'layer-scale' in variant else None
    )
    if kind_of == 'beit':
        positions = dict(
            abs_pos_embed=False, rel_pos_bias='shared', layer_scale=0.1 if size == 'base' else 1e-5
        )
    assert {key: model.backbone.get(key) for key in positions} == positions
    assert (model.backbone.arch, model.backbone.drop_path_rate) == (size, 0.1)
    public = images == 'in22k'
    assert model.data_preprocessor.mean == ([127.5] * 3 if public else [123.675, 116.28, 103.53])
    assert cfg.train_dataloader.dataset.dataset.data_root == (
        'data/imagenet22k' if public else 'data/imagenet'
    )
    jitter, flip, views, *mask, _ = cfg.train_dataloader.dataset.dataset.pipeline[1:]
    assert (jitter.brightness, jitter.contrast, jitter.saturation, flip.prob) == (
        0.4,
        0.4,
        0.4,
        0.5,
    )
    assert (views.size, views.scale, views.ratio) == (224, (0.08, 1.0), (3 / 4, 4 / 3))
    assert (
        model.target.type,
        model.target.get('recover', 'masked'),
        model.head.out_channels,
        views.token_size,
    ) == (
        'PixelTarget' if 'pixels' in variant else 'TokenTarget',
        'all' if 'recover-all' in variant else 'masked',
        *((3 * 16**2, None) if 'pixels' in variant else (8192, 112)),
    )
    blocks, single = (
        dict(type='BlockwiseMask', grid=14, num_masked=75, min_block=16),
        dict(grid=14, num_masked=75),
    )
    single['type'] = 'RandomMask'
    assert mask == (
        [] if 'no-mask' in variant else [single] if 'random-mask' in variant else [blocks]
    )
    assert model.backbone.mask_token is bool(mask) and model.num_masked == 75
    assert public or cfg.val_dataloader.dataset.dataset.pipeline[4:-1] == mask


def test_tokenizer_recipe():
    cfg = load('tokenizer/dvae_64xb8-coslr-3000k_in1k-256px')
    optimizer, model = cfg.optim_wrapper.optimizer, cfg.model
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 1e-4, 1e-4)
    assert (optimizer.betas, optimizer.eps) == ((0.9, 0.999), 1e-8)
    assert (model.vocab_size, model.width, model.groups, model.blocks, model.width_in) == (
        8192,
        256,
        4,
        2,
        128,
    )
    assert (
        model.likelihood == 'logit_laplace'
        and model.information_weight == model.marginal_weight == 1
    )
    beta, temperature, ema = (
        {k: v for k, v in hook.items() if k != 'type'} for hook in cfg.custom_hooks
    )
    assert beta == dict(attribute='beta', start=0.0, end=6.6, iters=5_000)
    assert temperature == dict(attribute='temperature', start=1.0, end=1 / 16, iters=150_000)
    assert 1 - ema['momentum'] == 0.999
    assert cfg.train_cfg.max_iters == 3_000_000
    assert cfg.auto_scale_lr.base_batch_size == 512 == 64 * cfg.train_dataloader.batch_size


@pytest.mark.parametrize('name', IMAGENET)
def test_imagenet_recipe(name):
    cfg = load(f'classification/{name}')
    optimizer, model = cfg.optim_wrapper.optimizer, cfg.model
    lr, decay, epochs, _, batch, weight_decay, drop_path, mix = IMAGENET[name]
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', lr, weight_decay)
    assert (optimizer.betas, optimizer.eps) == ((0.9, 0.999), 1e-8)
    assert cfg.optim_wrapper.paramwise_cfg == dict(layer_decay_rate=decay)
    assert cfg.train_cfg.max_epochs == epochs
    assert (
        cfg.auto_scale_lr.base_batch_size == batch == gpus(name) * cfg.train_dataloader.batch_size
    )
    assert model.backbone.drop_path_rate == drop_path
    assert model.get('train_cfg') == (
        dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)])
        if mix
        else None
    )
    assert cfg.optim_wrapper.get('clip_grad') == {
        4096: dict(max_norm=3.0),
        2048: dict(max_norm=1.0),
    }.get(batch)
    size, public = next((px for px in (384, 512) if f'{px}px' in name), 224), 'in22k' in name
    pipeline = cfg.train_dataloader.dataset.dataset.pipeline
    assert model.backbone.img_size == pipeline[1].scale == size
    assert cfg.data_preprocessor.mean == ([127.5] * 3 if public else [123.675, 116.28, 103.53])
    assert pipeline[4].fill_color == cfg.data_preprocessor.mean[::-1]
    assert pipeline[4].fill_std == cfg.data_preprocessor.std[::-1]
    if cfg.val_dataloader:
        resize, crop = cfg.val_dataloader.dataset.pipeline[1:3]
        assert (resize.scale, crop.crop_size) == ((256, 224) if size == 224 else (size, size))
    positions = dict(
        abs_pos_embed=True, rel_pos_bias=None, layer_scale=0.1 if 'layer-scale' in name else None
    )
    if name.startswith('beit'):
        positions = dict(rel_pos_bias='per_layer', layer_scale=0.1 if 'base' in name else 1e-5)
    assert {key: model.backbone.get(key) for key in positions} == positions


@pytest.mark.parametrize('name', ADE20K)
def test_ade20k_recipe(name):
    cfg = load(f'segmentation/{name}')
    optimizer, model, crop_of = (
        cfg.optim_wrapper.optimizer,
        cfg.model,
        cfg.train_dataloader.dataset.dataset.pipeline[3],
    )
    lr, decay, iters, images, _, drop_path, crop, stride, taps = ADE20K[name]
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', lr, 0.05)
    upernet = 'upernet' in name
    assert cfg.optim_wrapper.paramwise_cfg == dict(
        layer_decay_rate=decay, **dict(decay_cls_token=True) if upernet else {}
    )
    assert cfg.train_cfg.max_iters == iters
    batch = gpus(name) * cfg.train_dataloader.batch_size
    assert cfg.auto_scale_lr.base_batch_size == batch
    assert batch * cfg.optim_wrapper.get('accumulative_counts', 1) == images
    assert (model.backbone.drop_path_rate, tuple(model.backbone.out_indices)) == (drop_path, taps)
    assert (crop_of.cat_max_ratio, tuple(crop_of.crop_size)) == (0.75, (crop, crop))
    assert model.test_cfg == dict(mode='slide', crop_size=(crop, crop), stride=(stride, stride))
    assert model.backbone.img_size == crop and tuple(model.data_preprocessor.size) == (crop, crop)
    tested = load(f'segmentation/{name}_ms')
    assert tested.model.module == cfg.model
    scales = [
        resize.scale[1] / crop
        for resize in tested.test_dataloader.dataset.pipeline[1].transforms[0]
    ]
    assert scales == [1, 1, 1, 1.25, 1.5, 1.75]


@pytest.mark.parametrize('name', LINEAR_PROBE)
def test_linear_probe_recipe(name):
    cfg = load(f'classification/{name}')
    optimizer, model = cfg.optim_wrapper.optimizer, cfg.model
    lr, epochs, batch, weight_decay, depth, layer = LINEAR_PROBE[name]
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', lr, weight_decay)
    assert cfg.train_cfg.max_epochs == epochs
    assert (
        cfg.auto_scale_lr.base_batch_size == batch == gpus(name) * cfg.train_dataloader.batch_size
    )
    assert (model.backbone.frozen_stages, model.backbone.out_indices) == (depth, layer - 1)
    assert model.get('train_cfg') is None and model.head.loss == dict(type='CrossEntropyLoss')

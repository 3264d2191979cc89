"""Every config states the settings in the tables of the paper and of the official code (recipes.py)."""

import re

import pytest
from mmengine.config import Config
from recipes import ADE20K, IMAGENET, LINEAR_PROBE
from small import CLASSIFICATION, CONFIGS, TRAINED, load

from beit_mm.utils.config_tree import get

PRETRAIN = [name for name in CONFIGS if name.startswith(('pretrain/', 'ablations/'))]
PRETRAIN_NAME = re.compile(
    r'/beit_(vit|beit)-(base|large)-p16_(?:([\w-]+)_)?8xb256-amp-coslr-(800|300|150)e_(in1k|in22k)'
)
IMAGENET_MEAN, HALF_MEAN = [123.675, 116.28, 103.53], [127.5] * 3


def compare(cfg: Config, **expected: object) -> None:
    """Compare settings of a config; `__` stands for a dot in the path of a setting."""
    plain = cfg.to_dict()
    found = {path: get(plain, *path.split('__')) for path in expected}
    assert found == expected


def compare_optimizer(cfg: Config, lr: float, weight_decay: float) -> None:
    compare(
        cfg,
        optim_wrapper__optimizer__type='AdamW',
        optim_wrapper__optimizer__lr=lr,
        optim_wrapper__optimizer__weight_decay=weight_decay,
    )
    assert cfg.optim_wrapper.optimizer.get('betas', (0.9, 0.999)) == (0.9, 0.999)
    assert cfg.optim_wrapper.optimizer.get('eps', 1e-8) == 1e-8


def count_gpus(name: str) -> int:
    return int(re.search(r'_(\d+)xb(\d+)', name)[1])


def test_the_tables_hold_every_recipe():
    assert {f'classification/{name}' for name in [*IMAGENET, *LINEAR_PROBE]} == set(CLASSIFICATION)
    assert {f'segmentation/{name}' for name in ADE20K} == set(TRAINED) - set(CLASSIFICATION)
    variants = [PRETRAIN_NAME.search(name)[3] for name in PRETRAIN]
    assert variants.count(None) == 8 + 2
    assert set(variants) - {None} == {
        'random-mask', 'pixels', 'pixels_random-mask', 'recover-all', 'no-mask_recover-all',
        'layer-scale',
    }  # fmt: skip


@pytest.mark.parametrize('name', PRETRAIN)
def test_pretraining_recipe(name):
    family, size, variant, epochs, images = PRETRAIN_NAME.search(name).groups(default='')
    cfg, is_public = load(name), images == 'in22k'
    compare_optimizer(cfg, 1.5e-3, 0.05)
    positions = (True, None, 0.1 if 'layer-scale' in variant else None)
    if family == 'beit':
        positions = (False, 'shared', 0.1 if size == 'base' else 1e-5)
    compare(
        cfg,
        optim_wrapper__constructor='LayerDecayConstructor',
        optim_wrapper__paramwise_cfg=None,
        optim_wrapper__clip_grad=dict(max_norm=3.0 if size == 'base' else 1.0),
        train_cfg__max_epochs=int(epochs),
        auto_scale_lr__base_batch_size=2048,
        train_dataloader__batch_size=2048 // count_gpus(name),
        model__backbone__arch=size,
        model__backbone__drop_path_rate=0.1,
        model__backbone__mask_token='no-mask' not in variant,
        model__data_preprocessor__mean=HALF_MEAN if is_public else IMAGENET_MEAN,
        model__target__type='PixelTarget' if 'pixels' in variant else 'TokenTarget',
        model__head__out_channels=3 * 16**2 if 'pixels' in variant else 8192,
        model__num_masked=75,
        train_dataloader__dataset__dataset__data_root=(
            'data/imagenet22k' if is_public else 'data/imagenet'
        ),
    )
    backbone = cfg.model.backbone
    assert positions == (
        backbone.get('abs_pos_embed', False), backbone.get('rel_pos_bias'), backbone.get('layer_scale')
    )  # fmt: skip
    recover = cfg.model.target.get('recover', 'masked')
    assert recover == ('all' if 'recover-all' in variant else 'masked')
    jitter, flip, views, *mask, _ = cfg.train_dataloader.dataset.dataset.pipeline[1:]
    assert (jitter.brightness, jitter.contrast, jitter.saturation) == (0.4, 0.4, 0.4)
    assert flip.prob == 0.5
    assert (views.size, views.scale, views.ratio) == (224, (0.08, 1.0), (3 / 4, 4 / 3))
    assert views.token_size == (None if 'pixels' in variant else 112)
    expected = [dict(type='BlockwiseMask', grid=14, num_masked=75, min_block=16)]
    if 'random-mask' in variant:
        expected = [dict(type='RandomMask', grid=14, num_masked=75)]
    elif 'no-mask' in variant:
        expected = []
    assert mask == expected
    assert is_public or cfg.val_dataloader.dataset.dataset.pipeline[4:-1] == mask


def test_tokenizer_recipe():
    name = 'tokenizer/dvae_64xb8-coslr-3000k_in1k-256px'
    cfg = load(name)
    compare_optimizer(cfg, 1e-4, 1e-4)
    compare(
        cfg,
        model__vocab_size=8192,
        model__width=256,
        model__groups=4,
        model__blocks=2,
        model__width_in=128,
        model__likelihood='logit_laplace',
        model__information_weight=1,
        model__marginal_weight=1,
        train_cfg__max_iters=3_000_000,
        auto_scale_lr__base_batch_size=512,
        train_dataloader__batch_size=512 // count_gpus(name),
    )
    beta, temperature, ema = cfg.custom_hooks
    assert beta == dict(type=beta.type, attribute='beta', start=0.0, end=6.6, iters=5_000)
    expected = dict(attribute='temperature', start=1.0, end=1 / 16, iters=150_000)
    assert temperature == dict(type=beta.type, **expected)
    assert 1 - ema['momentum'] == 0.999


@pytest.mark.parametrize('name', IMAGENET)
def test_imagenet_recipe(name):
    cfg = load(f'classification/{name}')
    lr, decay, epochs, _, batch, weight_decay, drop_path, mixes = IMAGENET[name]
    compare_optimizer(cfg, lr, weight_decay)
    size = next((px for px in (384, 512) if f'{px}px' in name), 224)
    clip_norm = {4096: 3.0, 2048: 1.0}.get(batch)
    augments = [dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]
    positions = (True, None, 0.1 if 'layer-scale' in name else None)
    if name.startswith('beit'):
        positions = (None, 'per_layer', 0.1 if 'base' in name else 1e-5)
    compare(
        cfg,
        optim_wrapper__paramwise_cfg=dict(layer_decay_rate=decay),
        optim_wrapper__clip_grad=dict(max_norm=clip_norm) if clip_norm else None,
        train_cfg__max_epochs=epochs,
        auto_scale_lr__base_batch_size=batch,
        train_dataloader__batch_size=batch // count_gpus(name),
        model__backbone__drop_path_rate=drop_path,
        model__backbone__img_size=size,
        model__backbone__rel_pos_bias=positions[1],
        model__backbone__layer_scale=positions[2],
        model__train_cfg=dict(augments=augments) if mixes else None,
        data_preprocessor__mean=HALF_MEAN if 'in22k' in name else IMAGENET_MEAN,
    )
    assert bool(cfg.model.backbone.get('abs_pos_embed')) == bool(positions[0])
    pipeline = cfg.train_dataloader.dataset.dataset.pipeline
    assert pipeline[1].scale == size
    assert pipeline[4].fill_color == cfg.data_preprocessor.mean[::-1]
    assert pipeline[4].fill_std == cfg.data_preprocessor.std[::-1]
    if cfg.val_dataloader:
        resize, crop = cfg.val_dataloader.dataset.pipeline[1:3]
        assert (resize.scale, crop.crop_size) == ((256, 224) if size == 224 else (size, size))


@pytest.mark.parametrize('name', ADE20K)
def test_ade20k_recipe(name):
    cfg = load(f'segmentation/{name}')
    lr, decay, iters, images, _, drop_path, crop, stride, out_indices = ADE20K[name]
    compare_optimizer(cfg, lr, 0.05)
    paramwise = dict(layer_decay_rate=decay)
    if 'upernet' in name:
        paramwise['decay_cls_token'] = True
    batch = count_gpus(name) * cfg.train_dataloader.batch_size
    compare(
        cfg,
        optim_wrapper__paramwise_cfg=paramwise,
        train_cfg__max_iters=iters,
        auto_scale_lr__base_batch_size=batch,
        model__backbone__drop_path_rate=drop_path,
        model__backbone__img_size=crop,
        model__data_preprocessor__size=(crop, crop),
        model__test_cfg=dict(mode='slide', crop_size=(crop, crop), stride=(stride, stride)),
    )
    assert batch * cfg.optim_wrapper.get('accumulative_counts', 1) == images
    assert tuple(cfg.model.backbone.out_indices) == out_indices
    cropping = cfg.train_dataloader.dataset.dataset.pipeline[3]
    assert (cropping.cat_max_ratio, tuple(cropping.crop_size)) == (0.75, (crop, crop))
    tested = load(f'segmentation/{name}_ms')
    assert tested.model.module == cfg.model
    resizes = tested.test_dataloader.dataset.pipeline[1].transforms[0]
    scales = [resize.scale[1] / crop for resize in resizes]
    assert scales == [1, 1, 1, 1.25, 1.5, 1.75]


@pytest.mark.parametrize('name', LINEAR_PROBE)
def test_linear_probe_recipe(name):
    cfg = load(f'classification/{name}')
    lr, epochs, batch, weight_decay, depth, layer = LINEAR_PROBE[name]
    compare_optimizer(cfg, lr, weight_decay)
    compare(
        cfg,
        train_cfg__max_epochs=epochs,
        auto_scale_lr__base_batch_size=batch,
        train_dataloader__batch_size=batch // count_gpus(name),
        model__backbone__frozen_stages=depth,
        model__backbone__out_indices=layer - 1,
        model__train_cfg=None,
        model__head__loss=dict(type='CrossEntropyLoss'),
    )

"""Each mistake of a config is found, all in one list, before anything is built; no config of ours is called wrong."""

import copy
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from shapes import draw as shapes
from small import CONFIGS, each, load, shrink

from beit_mm.config_check import names as config_names
from beit_mm.config_check.images import image_sizes, size_after
from beit_mm.config_check.metrics import reported
from beit_mm.config_check.names import accepted
from beit_mm.config_check.preflight import preflight, report
from beit_mm.config_check.run import batches, work_dir_can_be_written
from beit_mm.models import BEiT
from beit_mm.registry import METRICS, MODELS

ROOT = Path(__file__).parents[2]
TRAINED = [name for name in CONFIGS if not name.endswith('_ms')]


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp('preflight') / 'shapes'
    shapes.write(out, train=4, val=2, size=64, segmentation_train=4, segmentation_val=2, jobs=1)
    return out


def at_home(name: str, data: Path, work_dir: Path) -> Config:
    """A config with its own schedule and length, on data and weights that are there, and of a small model."""
    real, cfg = load(name), shrink(load(name), data, work_dir)
    cfg.train_cfg, cfg.param_scheduler = real.train_cfg, real.param_scheduler
    return cfg


@pytest.mark.parametrize('name', each(TRAINED))
def test_no_config_of_ours_is_called_wrong(name, data, tmp_path):
    found = preflight(at_home(name, data, tmp_path))
    of_the_data = (
        'lr for this batch',
        'in none of 4 label maps',
        'pipeline gives 64×64 pixels',
    )  # few and small images
    assert [
        p.words for p in found if p.stops or not any(words in p.words for words in of_the_data)
    ] == []


@pytest.mark.parametrize('name', each(CONFIGS))
def test_at_its_real_size_a_config_lacks_files_alone(name):
    found = preflight(load(name), ranks=64 if 'dvae' in name else 16 if '16xb' in name else 8)
    lacks = 'not found', 'no tokenizer is given'
    assert [
        p.words for p in found if p.stops and not any(words in p.words for words in lacks)
    ] == []
    assert 'quickstart' in name or [p.words for p in found if 'lr for this batch' in p.words] == []


# -- mistakes ----------------------------------------------------------------------------------------------------------

TOKENIZER_KEYS = 'psnr', 'psnr_mean_color', 'reconstruction', 'kl', 'elbo'
TOKENIZER, PRETRAIN = 'quickstart/tokenizer', 'quickstart/pretrain'
CLASSIFY, SEGMENT = 'quickstart/classification', 'quickstart/segmentation'
ITER, INIT = 'train_dataloader.dataset.dataset', 'model.backbone.init_cfg'
HOST = dict(
    _delete_=True,
    type='ImageClassifier',
    backbone=dict(
        type='ResNet',
        depth=18,
        num_stages=1,
        strides=(1,),
        dilations=(1,),
        out_indices=(0,),
        base_channels=8,
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=8),
)


def _pretrained(checkpoint: str) -> dict:
    return HOST | dict(
        backbone=HOST['backbone'] | dict(init_cfg=dict(type='Pretrained', checkpoint=checkpoint))
    )


# mistake: config, what is set, what is said, whether it stops
MISTAKES = {
    'misspelled optim_wrapper': (
        CLASSIFY, dict(optim_wraper=dict()),
        'optim_wraper is read by nobody: did you mean optim_wrapper?'),
    'misspelled param_scheduler': (
        CLASSIFY, dict(param_schedulers=[]),
        'param_schedulers is read by nobody: did you mean param_scheduler?'),
    'misspelled custom_hooks': (
        PRETRAIN, dict(custom_hook=[]),
        'custom_hook is read by nobody: did you mean custom_hooks?'),
    'misspelled load_from': (
        SEGMENT, dict(load_form='x.pth'),
        'load_form is read by nobody: did you mean load_from?'),
    'misspelled default hook': (
        CLASSIFY, {'default_hooks.chekpoint': None},
        'default_hooks.chekpoint comes beside the usual one: did you mean checkpoint?'),
    'unknown type': (
        CLASSIFY, {'model.backbone.type': 'beit_mm.BEIT'},
        "model.backbone.type='beit_mm.BEIT' is registered nowhere: did you mean 'BEiT'?"),
    'unknown transform': (
        PRETRAIN, {f'{ITER}.pipeline.2.type': 'TwoVews'},
        f"{ITER}.pipeline.2.type='TwoVews' is registered nowhere: did you mean 'TwoViews'?"),
    'unknown key of the backbone': (
        CLASSIFY, {'model.backbone.drop_path': 0.1},
        "model.backbone.drop_path is no argument of beit_mm.BEiT: did you mean 'drop_path_rate'?"),
    'unknown key of a transform': (
        PRETRAIN, {f'{ITER}.pipeline.3.num_mask': 9},
        f"{ITER}.pipeline.3.num_mask is no argument of BlockwiseMask: did you mean 'num_masked'?"),
    'unknown key of the optimizer': (
        SEGMENT, {'optim_wrapper.optimizer.weight_decy': 0.1},
        "optim_wrapper.optimizer.weight_decy is no argument of AdamW: did you mean 'weight_decay'?"),
    'unknown key of a loader': (
        CLASSIFY, {'train_dataloader.num_worker': 2},
        "train_dataloader.num_worker is no argument of a data loader: did you mean 'num_workers'?"),
    'wrong paramwise_cfg key': (
        CLASSIFY, {'optim_wrapper.paramwise_cfg.layer_decay': 0.9},
        "optim_wrapper.paramwise_cfg.layer_decay is no argument of beit_mm.LayerDecayConstructor: did "
        "you mean 'layer_decay_rate'?"),
    'wrong paramwise_cfg key of mmengine': (
        TOKENIZER, {'optim_wrapper.paramwise_cfg': dict(norm_decay=0)},
        "optim_wrapper.paramwise_cfg.norm_decay is no argument of DefaultOptimWrapperConstructor: did "
        "you mean 'norm_decay_mult'?"),
    'unknown key of clipping': (
        SEGMENT, {'optim_wrapper.clip_grad.max_nrom': 1},
        "optim_wrapper.clip_grad.max_nrom is no argument of clipping: did you mean 'max_norm'?"),
    'no data folder': (CLASSIFY, {f'{ITER}.data_root': 'nowhere'}, f'{ITER}: nowhere not found'),
    'no list of files': (CLASSIFY, {f'{ITER}.ann_file': 'meta/trian.txt'}, 'meta/trian.txt not found'),
    'no label maps': (SEGMENT, {f'{ITER}.data_prefix.seg_map_path': 'labels'}, 'labels not found'),
    'no checkpoint': (
        CLASSIFY, {INIT: dict(_delete_=True, type='Pretrained', checkpoint='gone.pth')},
        'model.backbone.init_cfg: gone.pth not found'),
    'no load_from': (SEGMENT, dict(load_from='gone.pth'), 'load_from: gone.pth not found'),
    'no tokenizer': (PRETRAIN, {'model.target.checkpoint': None}, 'model.target: no tokenizer is given'),
    'no token cache': (
        PRETRAIN, {'train_dataloader.dataset.token_cache': 'nowhere'},
        'train_dataloader.dataset.token_cache: nowhere is no token cache; make it by tools/cache_tokens.py'),
    'weights of another kind': (
        CLASSIFY, {INIT: dict(_delete_=True, type='Pretrained', checkpoint='{other}')},
        'state dict'),
    'weights of another size': (
        CLASSIFY, {INIT: dict(_delete_=True, type='Pretrained', checkpoint='{wide}')},
        'wide.pth does not fit this BEiT'),
    'load_from that lacks a block': (
        CLASSIFY, dict(load_from='{short}'),
        'short.pth does not fit this BEiT. Missing: blocks.3.'),
    'load_from of no BEiT': (
        TOKENIZER, dict(load_from='{alien}'),
        'these are the weights of no BEiT that is known: the keys are stem.weight'),
    'load_from without one key of the model': (
        CLASSIFY, dict(load_from='{alien}', model=HOST),
        'alien.pth has nothing that this model has: stem.weight;'),
    'weights without one key of the model': (
        CLASSIFY, dict(model=_pretrained('{alien}')),
        'alien.pth has nothing that this model has: stem.weight;'),
    'tokenizer of another size': (PRETRAIN, {'model.target.tokenizer.width': 16}, 'does not fit this tokenizer'),
    'classes of head ≠ of data': (
        CLASSIFY, {'model.head.num_classes': 5},
        f'model.head.num_classes=5, but {ITER} has 10 classes'),
    'classes of head ≠ of folders': (
        CLASSIFY, {f'{ITER}.metainfo': None, f'{ITER}.ann_file': '', 'model.head.num_classes': 5},
        f'model.head.num_classes=5, but {ITER} has'),
    'classes of segmentor ≠ of data': (
        SEGMENT, {'model.decode_head.num_classes': 150},
        f'model.decode_head.num_classes=150, but {ITER} has 11 classes'),
    'classes of preprocessor ≠ of head': (
        CLASSIFY, {'model.data_preprocessor.num_classes': 9},
        'data_preprocessor.num_classes=9, but the head has 10'),
    'classes of validation in another order': (
        CLASSIFY, {'val_dataloader.dataset.metainfo.classes': list('abcdefghij')},
        f"the classes differ: {ITER} has 'starfish', 'flower', 'heart', 'leaf', 'fish', 'moon', 'drop', 'cross' … (10), "
        "val_dataloader.dataset has 'a', 'b'"),
    'validation maps of another kind': (
        SEGMENT, {'val_dataloader.dataset.reduce_zero_label': False},
        f'reduce_zero_label is True in {ITER} and False in val_dataloader.dataset: make them equal'),
    'validation maps that are pictures': (
        SEGMENT, {'val_dataloader.dataset.data_prefix.seg_map_path': 'images/validation',
                  'val_dataloader.dataset.seg_map_suffix': '.jpg'},
        'ADE_val_00000000.jpg is a picture (mode RGB): a label map is one number a pixel'),
    'vocabulary ≠ head': (PRETRAIN, {'model.head.out_channels': 64}, 'channels of the head: 64'),
    'vocabulary ≠ metric': (
        TOKENIZER, {'val_evaluator.vocab_size': 99},
        'val_evaluator.vocab_size=99, but the tokenizer has 32 codes'),
    'mask grid ≠ patch grid': (PRETRAIN, {f'{ITER}.pipeline.3.grid': 5}, 'grid of the mask: 5'),
    'token grid ≠ patch grid': (PRETRAIN, {f'{ITER}.pipeline.2.token_size': 64}, 'grid of tokens: 16'),
    'num_masked of mask ≠ of model': (PRETRAIN, {'model.num_masked': 7}, 'num_masked: 7'),
    'schedule in epochs, run in iterations': (SEGMENT, {'param_scheduler.1.by_epoch': True}, 'unit of the schedule'),
    'epochs without an end': (
        CLASSIFY, dict(train_cfg=dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=20)),
        'the sampler is infinite, so an epoch never ends'),
    'best checkpoint of a metric without a rule': (
        TOKENIZER, {'default_hooks.checkpoint.save_best': 'auto'},
        "default_hooks.checkpoint.save_best='auto' takes the first metric, tokenizer/psnr, for which mmengine cannot infer a "
        "rule: set save_best='tokenizer/psnr' and rule='greater'"),
    'best checkpoint of a key without a rule': (
        TOKENIZER, {'default_hooks.checkpoint.save_best': 'tokenizer/elbo'},
        "save_best='tokenizer/elbo' needs a rule: set rule='greater' or rule='less'"),
    'best checkpoint of a misspelled key': (
        SEGMENT, {'default_hooks.checkpoint.save_best': 'miou'},
        "save_best='miou' is not reported by val_evaluator, which reports aAcc, mIoU, mAcc: did you mean 'mIoU'?"),
    'best checkpoint of a key of another task': (
        CLASSIFY, {'default_hooks.checkpoint.save_best': 'mIoU'},
        "save_best='mIoU' is not reported by val_evaluator, which reports accuracy/top1"),
    'unknown rule': (
        PRETRAIN, {'default_hooks.checkpoint': dict(save_best='mim/val_loss', rule='min')},
        "default_hooks.checkpoint.rule='min': expected 'greater' or 'less'"),
    'reversed rule': (
        CLASSIFY, {'default_hooks.checkpoint': dict(save_best='accuracy/top1', rule='less')},
        "rule='less' keeps the worst accuracy/top1: set rule='greater'"),
    'top 20 of ten classes': (
        CLASSIFY, {'val_evaluator.topk': (1, 20)},
        'val_evaluator.topk=(1, 20), but model.head has 10 classes: set topk=1'),
    'validation every 0 iterations': (
        CLASSIFY, {'train_cfg.val_interval': 0},
        'train_cfg.val_interval=0: expected at least 1. For no validation set val_dataloader, val_cfg and val_evaluator to None'),
    'workers that persist without workers': (
        CLASSIFY, {'train_dataloader.persistent_workers': True},
        'train_dataloader.persistent_workers=True with num_workers=0: set num_workers to at least 1, or remove'),
    'prefetching without workers': (
        CLASSIFY, {'val_dataloader.prefetch_factor': 2},
        'val_dataloader.prefetch_factor=2 with num_workers=0: set num_workers to at least 1, or remove'),
    'work_dir in a file': (
        CLASSIFY, dict(work_dir=f'{__file__}/run'), 'test_preflight.py is a file, expected a folder: set another work_dir'),
    'a color too many': (
        SEGMENT, {f'{ITER}.metainfo.palette': [[0, 0, 0]] * 12},
        f'{ITER}.metainfo has 11 classes and 12 colors in its palette: make them equal'),
    'batch larger than the data set': (
        CLASSIFY,
        {'train_dataloader.drop_last': True, 'train_dataloader.batch_size': 64, 'train_dataloader.sampler.infinite': False},
        'train_dataloader.batch_size=64 per process, but the data set has 4 images for 1: with drop_last=True an epoch has no'),
    'one image under batch norm': (
        SEGMENT,
        {'train_dataloader.batch_size': 1, 'model.decode_head': dict(
            _delete_=True, type='UPerHead', in_channels=[32], in_index=[0], channels=8, num_classes=11, norm_cfg=dict(type='BN'))},
        'train_dataloader.batch_size=1, but model.decode_head pools to 1×1 and BN needs more than one value per channel: set '
        "batch_size=2, or norm_cfg=dict(type='GN', num_groups=32)"),
    'img_size no multiple of the patch': (
        CLASSIFY, {'model.backbone.img_size': 68},
        'model.backbone.img_size=68: 68×68 pixels are no multiple of patch_size=8: set 64'),
    'views no multiple of the patch': (
        PRETRAIN, {f'{ITER}.pipeline.2.size': 60, f'{ITER}.pipeline.2.token_size': None},
        f'{ITER}.pipeline: 60×60 pixels are no multiple of patch_size=8: set 56'),
    'grayscale images for three channels': (
        CLASSIFY, {f'{ITER}.pipeline.0.color_type': 'grayscale'},
        f"model.backbone.in_channels=3, but {ITER}.pipeline.0 gives images of 1 channel: set in_channels=1, or "
        "LoadImageFromFile's color_type"),
    'color transform for four channels': (
        CLASSIFY, {f'{ITER}.pipeline.1.type': 'ColorJitter', f'{ITER}.pipeline.0.color_type': 'unchanged',
                   'model.backbone.in_channels': 4},
        f'{ITER}.pipeline.1: ColorJitter is defined for RGB, and model.backbone.in_channels=4: remove it'),
    'mean of three channels for four': (
        CLASSIFY, {f'{ITER}.pipeline.0.color_type': 'unchanged', 'val_dataloader.dataset.pipeline.0.color_type': 'unchanged',
                   'model.backbone.in_channels': 4},
        'model.backbone.in_channels=4, but data_preprocessor.mean has 3 values: expected 4'),
    'validation without a metric': (
        CLASSIFY, dict(val_evaluator=None),
        'there is only val_dataloader and val_cfg: give all or none'),
}  # fmt: skip
WARNINGS = {
    'best checkpoint by all pixels': (
        SEGMENT,
        {'default_hooks.checkpoint.save_best': 'auto'},
        "save_best='auto' keeps the checkpoint of the best aAcc, which common classes decide: set save_best='mIoU'",
    ),
    'annealing beyond the run': (
        TOKENIZER,
        {'train_cfg.max_iters': 700, 'train_cfg.val_interval': 700},
        'custom_hooks.1.iters=1400 is beyond the run of 700 iterations: beta does not reach 0.02. Set it to 700',
    ),
    'positions of other images': (
        SEGMENT,
        {'model.backbone.img_size': 96},
        'model.backbone.img_size=96, but data_preprocessor.size gives 64×64 pixels: positions are interpolated from 12×12 to '
        '8×8 patches. Set img_size=64',
    ),
    'positions of other views': (
        PRETRAIN,
        {'model.backbone.img_size': 96},
        f'model.backbone.img_size=96, but {ITER}.pipeline gives 64×64 pixels: positions are interpolated from 12×12 to 8×8',
    ),
    'positions of other crops': (
        CLASSIFY,
        {f'{ITER}.pipeline.1': dict(_delete_=True, type='RandomResizedCrop', scale=96)},
        f'model.backbone.img_size=64, but {ITER}.pipeline gives 96×96 pixels',
    ),
    'positions of other photographs': (
        CLASSIFY,
        {'model.backbone.img_size': 96},
        f'model.backbone.img_size=96, but {ITER}.pipeline gives 64×64 pixels: positions are interpolated from 12×12 to 8×8',
    ),
    'images of different sizes in a test batch': (
        SEGMENT,
        {
            'val_dataloader.dataset.pipeline.1': dict(
                _delete_=True, type='Resize', scale=(96, 64), keep_ratio=True
            )
        },
        'do not fit in one batch. Set val_dataloader.batch_size=1',
    ),
    'sides no multiple of the patch when testing': (
        SEGMENT,
        {
            'val_dataloader.dataset.pipeline.1': dict(
                _delete_=True, type='Resize', scale=(96, 64), keep_ratio=True
            )
        },
        'the sides need not be multiples of patch_size=8. Set data_preprocessor.test_cfg=dict(size_divisor=8)',
    ),
    'red and blue exchanged': (
        CLASSIFY,
        {'model.data_preprocessor.to_rgb': False},
        'data_preprocessor feeds BGR images, but its mean is in the order red, green, blue: set to_rgb=True',
    ),
    'schedule beyond the run': (
        CLASSIFY,
        {'param_scheduler.1.end': 40},
        'end of the schedule: 40; training stops before lr has come down',
    ),
    'schedule short of the run': (
        SEGMENT,
        {'param_scheduler.1.end': 50},
        'end of the schedule: 50; the last 60 iterations train at lr 0',
    ),
    'warm-up beyond the run': (CLASSIFY, {'param_scheduler.0.end': 30}, 'warm-up: 30'),
    'checkpoints in epochs': (
        CLASSIFY,
        {'default_hooks.checkpoint.by_epoch': True},
        'one is written, at its end',
    ),
    'validation beyond the run': (
        CLASSIFY,
        {'train_cfg.val_interval': 500},
        'val_interval=500 is beyond the run of 30',
    ),
    'some weights of many': (
        CLASSIFY,
        dict(load_from='{some}', model=HOST),
        'some.pth lacks backbone.bn1.bias, ',
    ),
    'rate for another batch': (
        CLASSIFY,
        dict(auto_scale_lr=dict(base_batch_size=4096)),
        'lr for this batch',
    ),
}


@pytest.fixture(scope='module')
def weights(tmp_path_factory) -> dict[str, str]:
    """Checkpoints that do not fit the small models."""
    folder = tmp_path_factory.mktemp('weights')
    size = dict(embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=64)
    form = dict(
        img_size=64, patch_size=8, rel_pos_bias='per_layer', layer_scale=0.1, out_type='avg_featmap'
    )
    states = dict(
        wide=BEiT(arch=size | dict(embed_dims=48, num_heads=3), **form).state_dict(),
        short=BEiT(arch=size | dict(num_layers=3), **form).state_dict(),
    )
    for name, state in states.items():
        torch.save(
            dict(state_dict={f'backbone.{k}': v for k, v in state.items()}), folder / f'{name}.pth'
        )
    torch.save(dict(state_dict={'stem.weight': torch.zeros(2)}), folder / 'alien.pth')
    torch.save(dict(state_dict={'head.fc.weight': torch.zeros(10, 8)}), folder / 'some.pth')
    torch.save(dict(numbers=[1, 2]), folder / 'other.pth')
    return {path.stem: str(path) for path in folder.iterdir()}


def filled(options: object, weights: dict[str, str]) -> object:
    if isinstance(options, dict):
        return {key: filled(value, weights) for key, value in options.items()}
    return (
        weights.get(options[1:-1], options) if isinstance(options, str) else copy.deepcopy(options)
    )


@pytest.mark.parametrize('mistake', MISTAKES | WARNINGS)
def test_a_mistake_is_found_and_named_with_its_mend(mistake, data, weights, tmp_path):
    name, options, said = (MISTAKES | WARNINGS)[mistake]
    cfg = at_home(name, data, tmp_path)
    before = {p.words for p in preflight(cfg)}
    cfg.merge_from_dict(filled(options, weights))
    found = [p for p in preflight(cfg) if p.words not in before]
    assert any(said in p.words and p.stops == (mistake in MISTAKES) for p in found), [
        p.words for p in found
    ]
    assert len(found) <= 3, [p.words for p in found]  # a mistake may be seen in two places


def test_all_mistakes_of_a_config_come_in_one_list_those_that_stop_first(data, tmp_path):
    cfg = at_home(CLASSIFY, data, tmp_path)
    apart = (
        'unknown type',
        'no data folder',
        'classes of head ≠ of folders',
        'classes of preprocessor ≠ of head',
        'epochs without an end',
        'batch larger than the data set',
        'best checkpoint of a key of another task',
        'reversed rule',
        'top 20 of ten classes',
        'grayscale images for three channels',
        'color transform for four channels',
        'mean of three channels for four',
    )
    fit = {
        k: v
        for k, v in MISTAKES.items()
        if v[0] == CLASSIFY and "'{" not in str(v[1]) and k not in apart
    }
    for _, options, _ in [*fit.values(), WARNINGS['rate for another batch']]:
        cfg.merge_from_dict(copy.deepcopy(options))
    found = preflight(cfg)
    missed = [
        mistake for mistake, (_, _, said) in fit.items() if not any(said in p.words for p in found)
    ]
    assert len(fit) >= 10 and missed == []
    assert [p.stops for p in found] == sorted((p.stops for p in found), reverse=True)
    assert report(cfg, found).count('✗ ') == sum(p.stops for p in found)


def test_what_a_class_takes_is_read_through_its_parents():
    assert {'arch', 'img_size', 'init_cfg'} <= accepted(BEiT) and 'self' in accepted(BEiT)
    assert accepted(lambda **kwargs: None) is None
    assert accepted(MODELS.get('MIMHead'))


@pytest.mark.any_stack
def test_the_script_prints_the_list_and_trains_nothing_unless_it_is_forced(tmp_path):
    words = [
        sys.executable,
        str(ROOT / 'tools/train.py'),
        str(ROOT / 'configs/quickstart/classification.py'),
    ]
    words += [
        '--work-dir',
        str(tmp_path / 'run'),
        '--cfg-options',
        'model.head.num_classes=5',
        'param_scheduler.1.end=40',
    ]
    done = subprocess.run(
        words, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 1 and not (tmp_path / 'run').exists()
    for said in (
        '✗ model.head.num_classes=5',
        '! end of the schedule: 40',
        'data/quickstart/imagenet not found',
        'pass --force',
    ):
        assert said in done.stdout
    assert 'Traceback' not in done.stdout


@pytest.mark.parametrize('scope', ['mmengine', 'beit_mm', 'mmpretrain', 'mmseg', 'no_host'])
@pytest.mark.parametrize(
    'name',
    [
        'SGD', 'BEiT', 'beit_mm.BEiT', 'mmseg.ADE20KDataset', 'mmpretrain.ImageNet', 'torch.optim.SGD', 'NoSuch',
        'mmengine.model.BaseModel', 'beit_mm.NoSuch', 'no_host.BEiT', 'no.module.SGD',
    ],
)  # fmt: skip
def test_a_name_means_what_the_registries_give_for_it(name, scope):
    given = []
    for registry in config_names._registries(scope):
        with suppress(RuntimeError):  # it has none
            given.append(registry.children.get(scope, registry).get(name))
    config_names.find_classes.cache_clear()
    assert set(config_names.find_classes(name, scope)) == {
        each for each in given if each is not None
    }


def test_a_host_that_lacks_a_package_is_not_taken_for_one_without_registries(tmp_path, monkeypatch):
    (tmp_path / 'hollow').mkdir()
    (tmp_path / 'hollow/__init__.py').touch()
    (tmp_path / 'hollow/registry.py').write_text('import a_package_that_is_nowhere')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match='a_package_that_is_nowhere'):
        config_names.find_classes('NoSuch', 'hollow')


def test_the_layers_that_lora_adapts_are_no_types(data, tmp_path):
    cfg = at_home(CLASSIFY, data, tmp_path)
    cfg.model = dict(
        type='LoRAModel',
        module=cfg.model,
        alpha=1,
        rank=1,
        targets=[dict(type='qkv'), dict(type='.*fc1')],
    )
    assert [p.words for p in preflight(cfg) if 'targets' in p.words] == []


@pytest.mark.parametrize(
    ('metric', 'results'),
    [
        (
            dict(type='beit_mm.TokenizerMetric', vocab_size=2),
            [dict.fromkeys(TOKENIZER_KEYS, 0.0) | dict(counts=torch.ones(2))],
        ),
        (
            dict(type='beit_mm.MIMMetric'),
            [
                dict(hidden=torch.tensor([True, False]), pixel=0.0)
                | {
                    name: torch.zeros(2, dtype=torch.int64)
                    for name in ('target', 'prediction', 'log_p_tokens')
                }
            ],
        ),
        (dict(type='mmseg.IoUMetric', iou_metrics=['mIoU', 'mFscore']), [(torch.ones(2),) * 4]),
        (
            dict(type='mmpretrain.Accuracy', topk=(1, 2)),
            [dict(pred_score=torch.tensor([0.0, 1.0]), gt_label=torch.tensor([1]))],
        ),
    ],
    ids=lambda value: value['type'] if isinstance(value, dict) else '',
)
def test_the_keys_that_a_metric_reports_are_known(metric, results):
    built = METRICS.build(metric)
    built.dataset_meta, built.results = dict(classes=['a', 'b']), results
    assert set(built.evaluate(len(results))) == set(reported(metric))


def test_a_work_dir_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'access', lambda *_: False)  # root may write everywhere
    (found,) = work_dir_can_be_written(dict(work_dir=f'{tmp_path}/new/run'))
    assert found.stops and found.words.endswith(
        f'{tmp_path} cannot be written to: set another work_dir'
    )


@pytest.mark.parametrize('ranks', [1, 2])
def test_a_batch_is_held_against_the_images_of_a_rank(data, ranks, tmp_path):
    cfg = at_home(CLASSIFY, data, tmp_path).to_dict()
    cfg['train_dataloader'].update(
        batch_size=3, drop_last=True, sampler=dict(type='KeyedSampler')
    )  # of four images
    assert len(list(batches(cfg, ranks))) == (ranks == 2)


@pytest.mark.parametrize(
    ('steps', 'size'),
    [
        (
            [
                dict(type='RandomResizedCrop', scale=64),
                dict(type='AutoAugment', policies='imagenet'),
            ],
            (64, 64),
        ),
        (
            [
                dict(type='mmpretrain.EfficientNetCenterCrop', crop_size=64),
                dict(type='Solarize', thr=9),
            ],
            (64, 64),
        ),
        ([dict(type='Resize', scale=(64, 32)), dict(type='RandomErasing')], (32, 64)),
        ([dict(type='RandomCrop', crop_size=64), dict(type='RandomCutOut', n_holes=1)], (64, 64)),
        ([dict(type='RandomCrop', crop_size=64), dict(type='ResizeEdge', scale=32)], (32, 32)),
        ([dict(type='RandomCrop', crop_size=64), dict(type='Pad', size_divisor=32)], None),
        ([dict(type='RandomCrop', crop_size=64), dict(type='RandomChoice', transforms=[])], None),
    ],
)
def test_the_size_after_a_pipeline_is_known_unless_a_step_may_change_it(steps, size):
    assert size_after(steps) == size


def test_a_backbone_that_is_given_as_a_class_is_checked():
    cfg = dict(
        default_scope='mmpretrain',
        model=dict(backbone=dict(type=BEiT, img_size=96)),
        train_dataloader=dict(
            dataset=dict(type='X', pipeline=[dict(type='CenterCrop', crop_size=64)])
        ),
    )
    (found,) = image_sizes(cfg)
    assert 'positions are interpolated from 6×6 to 4×4 patches' in found.words

"""`load_from` takes a checkpoint of any project; a run says when it normalises its images in another way than its weights."""

import logging
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import small
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from beit_mm.checkpoint.files import read_file
from beit_mm.checkpoint.origins import from_ours
from beit_mm.checkpoint.state_dicts import find_weights
from beit_mm.config_check.weights import check_weights, compare_by_name
from beit_mm.engine import ConvertCheckpoint
from beit_mm.engine.hooks.convert_checkpoint import _find_normalization
from beit_mm.engine.launch import build_runner
from beit_mm.models import BEiT, BEiTPretrainer
from beit_mm.registry import MODELS

ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
CLASSIFIER = dict(rel_pos_bias='per_layer', layer_scale=0.1, out_type='avg_featmap')
HALF = dict(mean=[127.5] * 3, std=[127.5] * 3)
IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


def weights(head: bool = True, **settings) -> dict:
    """Random weights of a small classifier, or of a backbone that pre-training wrote."""
    torch.manual_seed(3)
    backbone = BEiT(**dict(CLASSIFIER, arch=ARCH, img_size=32, patch_size=8) | settings)
    state = {f'backbone.{k}': torch.randn_like(v) for k, v in backbone.state_dict().items()}
    return state | (
        {'head.fc.weight': torch.randn(3, 16), 'head.fc.bias': torch.randn(3)} if head else {}
    )


def runner(
    tmp_path, load_from, img_size=32, normalization=IMAGENET, init_cfg=None, every_key=False, **cfg
):
    for label in 'abc':
        (tmp_path / 'images' / label).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(
            str(tmp_path / 'images' / label / '0.png'),
            np.full((img_size, img_size, 3), 99, np.uint8),
        )
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    backbone = dict(
        type='beit_mm.BEiT',
        arch=ARCH,
        img_size=img_size,
        patch_size=8,
        init_cfg=init_cfg,
        **CLASSIFIER,
    )
    model = dict(
        type='ImageClassifier',
        data_preprocessor=dict(num_classes=3, **normalization),
        backbone=backbone,
        head=dict(type='LinearClsHead', num_classes=3, in_channels=16),
    )
    settings = dict(
        default_scope='mmpretrain',
        model=model,
        work_dir=str(tmp_path / 'work'),
        experiment_name=f'{tmp_path.name}_{img_size}_{every_key}',
        train_dataloader=dict(
            batch_size=2,
            num_workers=0,
            dataset=dict(
                type='CustomDataset', data_root=str(tmp_path / 'images'), pipeline=pipeline
            ),
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        train_cfg=dict(by_epoch=False, max_iters=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1)),
        load_from=load_from and str(load_from),
    )
    return build_runner(Config(settings | cfg), every_key)


@pytest.fixture
def log(caplog):
    logger = MMLogger.get_current_instance()

    def of(run) -> str:
        run.logger.addHandler(caplog.handler)
        caplog.set_level(logging.INFO)
        return caplog

    yield of
    logger.removeHandler(caplog.handler)


@pytest.mark.parametrize('origin', ['unilm', 'timm', 'hf', 'mmpretrain', 'beit_mm'])
def test_a_classifier_of_any_project_becomes_ours(tmp_path, origin):
    state = weights()
    torch.save(from_ours(state, origin), tmp_path / 'a.pth')
    run = runner(tmp_path, tmp_path / 'a.pth', every_key=True)
    run.load_or_resume()
    own = run.model.state_dict()
    assert own.keys() == state.keys() and all(torch.equal(own[k], v) for k, v in state.items())


@pytest.mark.parametrize(
    ('origin', 'scales'), [('unilm', ''), ('unilm', '_ms'), ('hf', ''), ('mmseg', '')]
)
@pytest.mark.usefixtures('unformatted')
def test_the_published_segmentor_is_tested_as_it_is(tmp_path, origin, scales):
    """With its own config, small: backbone, pyramid, decoder and auxiliary head; also where several scales vote."""
    cfg = small.load(
        f'segmentation/beit-base_in22k-ft_upernet_8xb2-amp-160k_ade20k-640x640{scales}'
    )
    run = build_runner(small.shrink(cfg, None, tmp_path), every_key=True)
    model = run.model.module if scales else run.model
    state = {k: torch.randn(v.shape) if v.ndim else v for k, v in model.state_dict().items()}
    torch.save(dict(state_dict=from_ours(state, origin), meta={}), tmp_path / 'published.pth')
    run.load_checkpoint(str(tmp_path / 'published.pth'))
    own = model.state_dict()
    assert any(key.startswith('auxiliary_head.') for key in own)
    assert own.keys() == state.keys() and all(torch.equal(own[k], v) for k, v in state.items())


def test_a_pre_training_at_another_size_gives_the_backbone_and_each_key_is_accounted_for(
    tmp_path, log
):
    state = weights(head=False, rel_pos_bias='shared', mask_token=True, out_type='raw')
    torch.save(dict(model=from_ours(state, 'unilm')), tmp_path / 'pt.pth')
    run = runner(tmp_path, tmp_path / 'pt.pth', img_size=48)
    text = log(run)
    run.load_or_resume()
    own = run.model.state_dict()
    assert own['backbone.blocks.1.attn.relative_position_bias_table'].shape == (11 * 11 + 3, 2)
    assert torch.equal(
        own['backbone.blocks.1.attn.qkv.weight'], state['backbone.blocks.1.attn.qkv.weight']
    )
    for line in (
        'pt.pth, written by unilm:',
        '1  skipped    rel_pos_bias.relative_position_index (follows from the grid)',
        '1  expanded   rel_pos_bias.relative_position_bias_table (copied into 2 layers)',
        '2  resized    blocks.*.attn.relative_position_bias_table (4×4 → 6×6 patches)',
        '1  skipped    mask_token (used in pre-training only)',
        '1  new        head.fc.weight (not in the checkpoint)',
    ):
        assert line in text.text


def test_a_head_of_other_classes_is_left_out_in_training_and_an_error_in_testing(tmp_path, log):
    state = weights() | {'head.fc.weight': torch.randn(5, 16), 'head.fc.bias': torch.randn(5)}
    torch.save(state, tmp_path / 'a.pth')
    run = runner(tmp_path, tmp_path / 'a.pth')
    text = log(run)
    run.load_or_resume()
    assert 'skipped    head.fc.weight (of another shape)' in text.text
    with pytest.raises(
        ValueError, match=r'does not fit this ImageClassifier.*head\.fc\.bias: \(5,\) ≠ \(3,\)'
    ):
        runner(tmp_path, tmp_path / 'a.pth', every_key=True).load_or_resume()
    torch.save(weights(head=False), tmp_path / 'b.pth')
    with pytest.raises(ValueError, match=r'Missing: head\.fc\.bias, head\.fc\.weight'):
        runner(tmp_path, tmp_path / 'b.pth', every_key=True).load_or_resume()


@pytest.mark.parametrize('plain', ['bare', 'state_dict'])
def test_a_state_dict_without_a_wrapper_is_loaded_too(tmp_path, plain):
    """A pre-trainer also compares whose tokens the weights have learned."""
    backbone = dict(type='BEiT', arch=ARCH, img_size=32, patch_size=8, mask_token=True)
    target = dict(type='PixelTarget', patch_size=8)
    model = BEiTPretrainer(
        backbone, target, dict(type='MIMHead', in_channels=16, out_channels=192), 6
    )
    state = {k: torch.full_like(v, 3) for k, v in model.state_dict().items()}
    run = SimpleNamespace(model=model, cfg=dict(load_from='a.pth'), logger=None, _resume=False)
    checkpoint = dict(state) if plain == 'bare' else dict(state_dict=state)
    ConvertCheckpoint().after_load_checkpoint(run, checkpoint)
    assert checkpoint['state_dict'] == state


def test_the_log_says_which_copy_of_the_weights_was_not_loaded(tmp_path, log):
    torch.save(dict(state_dict=weights(), model_ema=weights()), tmp_path / 'a.pth')
    run = runner(tmp_path, f'{tmp_path}/a.pth')
    text = log(run)
    run.load_or_resume()
    assert (
        "skipped    model_ema.* (the averaged weights: to load them, append #ema to the checkpoint's name)"
        in text.text
    )


def test_another_backbone_is_an_error_also_in_training(tmp_path):
    torch.save(weights(arch=ARCH | dict(num_layers=3)), tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'does not fit this BEiT.*unexpected: blocks\.2\.'):
        runner(tmp_path, tmp_path / 'a.pth').load_or_resume()


@pytest.mark.parametrize('way', ['load_from', 'init_cfg'])
@pytest.mark.parametrize('learned', [HALF, IMAGENET, None], ids=['half', 'imagenet', 'unknown'])
def test_another_normalisation_than_the_weights_is_a_warning_that_names_both(
    tmp_path, log, way, learned
):
    meta = {} if learned is None else dict(normalization=learned)
    torch.save(dict(state_dict=weights(), meta=meta), tmp_path / 'a.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'))
    run = runner(
        tmp_path,
        tmp_path / 'a.pth' if way == 'load_from' else None,
        init_cfg=init_cfg if way == 'init_cfg' else None,
    )
    text = log(run)
    run.train()
    warned = 'normalized with mean [127.5, 127.5, 127.5], std [127.5, 127.5, 127.5], this run normalizes with mean [123.675'
    assert (warned in text.text) is (learned == HALF)
    saved = read_file(tmp_path / 'work/iter_1.pth')['meta']['normalization']
    assert saved['mean'] == pytest.approx(IMAGENET['mean']) and saved['std'] == pytest.approx(
        IMAGENET['std']
    )


RED_FIRST = (
    'the weights were trained on RGB images, this run reads BGR: set data_preprocessor.to_rgb=True'
)


@pytest.mark.parametrize('order', ['rgb', 'bgr', None])
@pytest.mark.parametrize('to_rgb', [True, False])
@pytest.mark.parametrize('step', ['train', 'test'])
def test_another_channel_order_than_that_of_the_weights_is_a_warning(
    tmp_path, log, order, to_rgb, step
):
    """A file that says nothing was written before the order was stored, or by another project: all are RGB."""
    stored = IMAGENET | (dict(channel_order=order) if order else {})
    torch.save(dict(state_dict=weights(), meta=dict(normalization=stored)), tmp_path / 'a.pth')
    run = runner(tmp_path, tmp_path / 'a.pth', normalization=IMAGENET | dict(to_rgb=to_rgb))
    text = log(run)
    run.load_or_resume()
    run.call_hook(f'before_{step}')
    assert (RED_FIRST in text.text) is (order != 'bgr' and not to_rgb)
    assert ('the weights were trained on BGR images, this run reads RGB' in text.text) is (
        order == 'bgr' and to_rgb
    )


@pytest.mark.parametrize(
    ('preprocessor', 'order'),
    [
        (dict(type='mmpretrain.ClsDataPreprocessor', to_rgb=True), 'rgb'),
        (dict(type='mmpretrain.ClsDataPreprocessor'), 'bgr'),
        (dict(type='mmpretrain.SelfSupDataPreprocessor', to_rgb=True), 'rgb'),
        (dict(type='mmseg.SegDataPreProcessor', bgr_to_rgb=True), 'rgb'),
        (dict(type='mmseg.SegDataPreProcessor'), 'bgr'),
        (dict(type='beit_mm.MIMDataPreprocessor'), 'rgb'),
    ],
    ids=str,
)
def test_a_checkpoint_says_in_which_order_channels_were_fed(preprocessor, order):
    model = torch.nn.Module()
    model.data_preprocessor = MODELS.build(preprocessor | IMAGENET)
    assert _find_normalization(model)['channel_order'] == order


def test_a_model_without_our_backbone_is_left_alone(tmp_path):
    model = dict(
        type='ImageClassifier',
        backbone=dict(type='LeNet5', num_classes=3),
        head=dict(type='ClsHead'),
    )
    run = runner(tmp_path, None, model=model)
    state = {k: torch.randn_like(v) for k, v in run.model.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / 'lenet.pth')
    run.load_checkpoint(str(tmp_path / 'lenet.pth'))
    assert all(torch.equal(v, state[k]) for k, v in run.model.state_dict().items())


def test_the_backbone_within_lora_is_compared_with_its_weights(tmp_path):
    """mmpretrain's LoRAModel loads the weights while it is built, then replaces layers."""
    path = str(tmp_path / 'a.pth')
    torch.save(dict(state_dict=weights()), path)
    init_cfg = dict(type='Pretrained', checkpoint=path)
    backbone = dict(
        type='beit_mm.BEiT', arch=ARCH, img_size=32, patch_size=8, init_cfg=init_cfg, **CLASSIFIER
    )
    lora = dict(type='LoRAModel', module=backbone, alpha=2, rank=2, targets=[dict(type='qkv')])
    model = dict(
        type='ImageClassifier',
        backbone=lora,
        head=dict(type='LinearClsHead', num_classes=3, in_channels=16),
    )
    cfg = dict(default_scope='mmpretrain', model=model)
    assert list(check_weights(cfg)) == []
    (finding,) = check_weights(cfg | dict(load_from=path))
    assert finding.stops and 'a.pth holds no LoRA weights' in str(finding)
    with pytest.raises(ValueError, match='none of its layers would be loaded'):
        run = runner(tmp_path, path, model=dict(model))
        run.load_or_resume()
    backbone['arch'] = ARCH | dict(num_layers=3)
    (finding,) = check_weights(cfg)
    assert finding.stops and 'Missing: blocks.2.' in str(finding)


@pytest.mark.parametrize('prefix', [None, 'model'])
def test_a_model_whose_own_names_look_like_a_wrappers_is_compared_by_them(tmp_path, prefix):
    """mmpretrain's TimmClassifier keeps its network as `model`."""
    network = torch.nn.Sequential(torch.nn.Linear(2, 2))
    torch.save({f'model.{k}': v for k, v in network.state_dict().items()}, tmp_path / 'a.pth')
    model = torch.nn.Module()
    model.model = network
    state = find_weights(read_file(tmp_path / 'a.pth'), 'a.pth')[0]
    assert not list(compare_by_name(state, model if prefix is None else network, 'a.pth'))


def test_the_normalization_of_published_weights_is_compared_too(tmp_path, log):
    """Their files do not hold it, their names tell it."""
    torch.save(
        dict(model=from_ours(weights(), 'unilm')),
        tmp_path / 'beitv2_base_patch16_224_pt1k_ft1k.pth',
    )
    run = runner(tmp_path, tmp_path / 'beitv2_base_patch16_224_pt1k_ft1k.pth', normalization=HALF)
    text = log(run)
    run.train()
    assert (
        'the weights were trained on images normalized with mean [123.675, 116.28, 103.53]'
        in text.text
    )

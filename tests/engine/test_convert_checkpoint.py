"""`load_from` takes a checkpoint of any project; a run warns of another normalization than its weights'."""

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
from beit_mm.engine.launch import build_runner
from beit_mm.models import BEiT, BEiTPretrainer
from beit_mm.registry import MODELS

ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
CLASSIFIER = dict(rel_pos_bias='per_layer', layer_scale=0.1, out_type='avg_featmap')
HEAD = dict(type='LinearClsHead', num_classes=3, in_channels=16)
HALF = dict(mean=[127.5] * 3, std=[127.5] * 3)
IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


def make_weights(head: bool = True, **settings) -> dict[str, torch.Tensor]:
    """Return random weights of a small classifier, or of a backbone that pre-training wrote."""
    torch.manual_seed(3)
    backbone = BEiT(**dict(CLASSIFIER, arch=ARCH, img_size=32, patch_size=8) | settings)
    state = {f'backbone.{k}': torch.randn_like(v) for k, v in backbone.state_dict().items()}
    if head:
        state |= {'head.fc.weight': torch.randn(3, 16), 'head.fc.bias': torch.randn(3)}
    return state


def make_backbone(**settings) -> dict:
    return dict(type='beit_mm.BEiT', arch=ARCH, patch_size=8, **CLASSIFIER, **settings)


def make_runner(
    folder, load_from, img_size=32, normalization=IMAGENET, init_cfg=None, every_key=False, **cfg
):
    for label in 'abc':
        (folder / 'images' / label).mkdir(parents=True, exist_ok=True)
        image = np.full((img_size, img_size, 3), 99, np.uint8)
        cv2.imwrite(str(folder / 'images' / label / '0.png'), image)
    dataset = dict(
        type='CustomDataset',
        data_root=str(folder / 'images'),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
    )
    model = dict(
        type='ImageClassifier',
        data_preprocessor=dict(num_classes=3, **normalization),
        backbone=make_backbone(img_size=img_size, init_cfg=init_cfg),
        head=HEAD,
    )
    settings = dict(
        default_scope='mmpretrain',
        model=model,
        work_dir=str(folder / 'work'),
        experiment_name=f'{folder.name}_{img_size}_{every_key}',
        train_dataloader=dict(
            batch_size=2,
            num_workers=0,
            dataset=dataset,
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
    """Return the log of a runner from now on."""
    logger = MMLogger.get_current_instance()

    def record(run):
        run.logger.addHandler(caplog.handler)
        caplog.set_level(logging.INFO)
        return caplog

    yield record
    logger.removeHandler(caplog.handler)


def is_equal(model: torch.nn.Module, state: dict) -> bool:
    own = model.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[k], v) for k, v in state.items())


# -- weights


@pytest.mark.parametrize('origin', ['unilm', 'timm', 'hf', 'mmpretrain', 'beit_mm'])
def test_a_classifier_of_any_project_becomes_ours(tmp_path, origin):
    state = make_weights()
    torch.save(from_ours(state, origin), tmp_path / 'a.pth')
    run = make_runner(tmp_path, tmp_path / 'a.pth', every_key=True)
    run.load_or_resume()
    assert is_equal(run.model, state)


@pytest.mark.parametrize(
    'origin, scales', [('unilm', ''), ('unilm', '_ms'), ('hf', ''), ('mmseg', '')]
)
@pytest.mark.usefixtures('unformatted')
def test_a_published_segmentor_is_tested_with_its_config(tmp_path, origin, scales):
    """The model has a pyramid, a decoder and an auxiliary head, also with multi-scale testing."""
    name = f'segmentation/beit-base_in22k-ft_upernet_8xb2-amp-160k_ade20k-640x640{scales}'
    run = build_runner(small.shrink(small.load(name), None, tmp_path), every_key=True)
    model = run.model.module if scales else run.model
    state = {k: torch.randn(v.shape) if v.ndim else v for k, v in model.state_dict().items()}
    assert any(key.startswith('auxiliary_head.') for key in state)
    torch.save(dict(state_dict=from_ours(state, origin), meta={}), tmp_path / 'published.pth')
    run.load_checkpoint(str(tmp_path / 'published.pth'))
    assert is_equal(model, state)


def test_the_log_reports_every_key_of_a_pre_training_at_another_size(tmp_path, log):
    state = make_weights(head=False, rel_pos_bias='shared', mask_token=True, out_type='raw')
    state = from_ours(state, 'unilm')
    torch.save(dict(model=state, model_ema=state), tmp_path / 'pt.pth')
    run = make_runner(tmp_path, tmp_path / 'pt.pth', img_size=48)
    text = log(run)
    run.load_or_resume()
    for line in (
        'pt.pth, written by unilm:',
        '1  skipped    rel_pos_bias.relative_position_index (follows from the grid)',
        '1  expanded   rel_pos_bias.relative_position_bias_table (copied into 2 layers)',
        '2  resized    blocks.*.attn.relative_position_bias_table (4×4 → 6×6 patches)',
        '1  skipped    mask_token (used in pre-training only)',
        '1  new        head.fc.weight (not in the checkpoint)',
        "skipped    model_ema.* (the averaged weights: to load them, append #ema to the checkpoint's name)",
    ):
        assert line in text.text


def test_a_head_of_other_classes_is_skipped_in_training_and_an_error_in_testing(tmp_path, log):
    path, head = tmp_path / 'a.pth', torch.randn(5, 16)
    torch.save(make_weights() | {'head.fc.weight': head, 'head.fc.bias': head[:, 0]}, path)
    run = make_runner(tmp_path, path)
    text = log(run)
    run.load_or_resume()
    assert 'skipped    head.fc.weight (of another shape)' in text.text
    with pytest.raises(
        ValueError, match=r'fit this ImageClassifier.*head\.fc\.bias: \(5,\) ≠ \(3,\)'
    ):
        make_runner(tmp_path, path, every_key=True).load_or_resume()
    torch.save(make_weights(arch=ARCH | dict(num_layers=3)), path)
    with pytest.raises(ValueError, match=r'does not fit this BEiT.*unexpected: blocks\.2\.'):
        make_runner(tmp_path, path).load_or_resume()


@pytest.mark.parametrize('wrapped', [True, False])
def test_a_bare_state_dict_of_a_pre_trainer_is_loaded_too(wrapped):
    backbone = dict(type='BEiT', arch=ARCH, img_size=32, patch_size=8, mask_token=True)
    head = dict(type='MIMHead', in_channels=16, out_channels=192)
    model = BEiTPretrainer(backbone, dict(type='PixelTarget', patch_size=8), head, 6)
    state = {k: torch.full_like(v, 3) for k, v in model.state_dict().items()}
    run = SimpleNamespace(model=model, cfg=dict(load_from='a.pth'), logger=None, _resume=False)
    checkpoint = dict(state_dict=state) if wrapped else dict(state)
    ConvertCheckpoint().after_load_checkpoint(run, checkpoint)
    assert checkpoint['state_dict'] == state


def test_a_model_with_another_backbone_is_loaded_by_mmengine(tmp_path):
    backbone = dict(type='LeNet5', num_classes=3)
    model = dict(type='ImageClassifier', backbone=backbone, head=dict(type='ClsHead'))
    run = make_runner(tmp_path, None, model=model)
    state = {k: torch.randn_like(v) for k, v in run.model.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / 'lenet.pth')
    run.load_checkpoint(str(tmp_path / 'lenet.pth'))
    assert is_equal(run.model, state)


def test_the_backbone_in_a_lora_model_is_compared_with_its_weights(tmp_path):
    """mmpretrain's LoRAModel loads the weights while it is built, then replaces layers."""
    path = str(tmp_path / 'a.pth')
    torch.save(dict(state_dict=make_weights()), path)
    backbone = make_backbone(img_size=32, init_cfg=dict(type='Pretrained', checkpoint=path))
    lora = dict(type='LoRAModel', module=backbone, alpha=2, rank=2, targets=[dict(type='qkv')])
    model = dict(type='ImageClassifier', backbone=lora, head=HEAD)
    cfg = dict(default_scope='mmpretrain', model=model)
    assert list(check_weights(cfg)) == []
    (finding,) = check_weights(cfg | dict(load_from=path))
    assert finding.stops and 'a.pth holds no LoRA weights' in str(finding)
    with pytest.raises(ValueError, match='none of its layers would be loaded'):
        make_runner(tmp_path, path, model=dict(model)).load_or_resume()
    backbone['arch'] = ARCH | dict(num_layers=3)
    (finding,) = check_weights(cfg)
    assert finding.stops and 'Missing: blocks.2.' in str(finding)


@pytest.mark.parametrize('prefix', [None, 'model'])
def test_parameter_names_that_look_like_a_wrapper_are_compared_as_they_are(tmp_path, prefix):
    """mmpretrain's TimmClassifier keeps its network as `model`."""
    model = torch.nn.Module()
    model.model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    torch.save(model.state_dict(), tmp_path / 'a.pth')
    state = find_weights(read_file(tmp_path / 'a.pth'), 'a.pth')[0]
    assert not list(compare_by_name(state, model if prefix is None else model.model, 'a.pth'))


# -- normalization


@pytest.mark.parametrize('source', ['load_from', 'init_cfg'])
@pytest.mark.parametrize(
    ('stored', 'own', 'warning'),
    [
        (HALF, IMAGENET, 'normalizes with mean [123.675'),
        (IMAGENET, IMAGENET, None),
        (None, IMAGENET, None),
        (HALF, {}, 'normalizes with no mean and std'),
        (HALF, dict(mean=[127.5], std=[127.5]), None),
        (IMAGENET, dict(mean=[127.5], std=[127.5]), 'normalizes with mean [127.5, 127.5, 127.5]'),
    ],
    ids=['other', 'same', 'unknown', 'without a mean', 'one mean', 'one other mean'],
)  # fmt: skip
def test_another_normalization_than_that_of_the_weights_is_a_warning(
    source, stored, own, warning, tmp_path, log
):
    meta = dict(normalization=stored) if stored else {}
    path = str(tmp_path / 'a.pth')
    torch.save(dict(state_dict=make_weights(), meta=meta), path)
    pretrained = dict(type='Pretrained', checkpoint=path)
    options = (
        dict(load_from=None, init_cfg=pretrained) if source == 'init_cfg' else dict(load_from=path)
    )
    run = make_runner(tmp_path, normalization=own | dict(to_rgb=True), **options)
    text = log(run)
    run.train()
    assert ('the weights were trained on images normalized with' in text.text) is bool(warning)
    assert (warning or '') in text.text
    saved = read_file(tmp_path / 'work/iter_1.pth')['meta'].get('normalization')
    if not own:
        assert saved is None
        return
    for name, values in own.items():
        assert saved[name] == pytest.approx(values * 3 if len(values) == 1 else values)


@pytest.mark.parametrize('order', ['rgb', 'bgr', None])
@pytest.mark.parametrize('to_rgb', [True, False])
@pytest.mark.parametrize('own', [IMAGENET, {}], ids=['mean', 'no mean'])
def test_another_channel_order_than_that_of_the_weights_is_a_warning(
    order, to_rgb, own, tmp_path, log
):
    """Older files and other projects store no order: they were trained on RGB."""
    stored = IMAGENET | (dict(channel_order=order) if order else {})
    torch.save(dict(state_dict=make_weights(), meta=dict(normalization=stored)), tmp_path / 'a.pth')
    run = make_runner(tmp_path, tmp_path / 'a.pth', normalization=own | dict(to_rgb=to_rgb))
    text = log(run)
    run.load_or_resume()
    run.call_hook('before_test')
    reads_bgr = 'trained on RGB images, this run reads BGR: set data_preprocessor.to_rgb=True'
    assert (reads_bgr in text.text) is (order != 'bgr' and not to_rgb)
    assert ('trained on BGR images, this run reads RGB' in text.text) is (order == 'bgr' and to_rgb)


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
def test_a_checkpoint_stores_the_channel_order(preprocessor, order):
    model = torch.nn.Module()
    model.data_preprocessor = MODELS.build(preprocessor | IMAGENET)
    checkpoint = dict(meta={})
    ConvertCheckpoint().before_save_checkpoint(SimpleNamespace(model=model), checkpoint)
    assert checkpoint['meta']['normalization']['channel_order'] == order


def test_the_normalization_of_published_weights_follows_from_their_names(tmp_path, log):
    path = tmp_path / 'beitv2_base_patch16_224_pt1k_ft1k.pth'
    torch.save(dict(model=from_ours(make_weights(), 'unilm')), path)
    run = make_runner(tmp_path, path, normalization=HALF)
    text = log(run)
    run.train()
    assert 'trained on images normalized with mean [123.675, 116.28, 103.53]' in text.text

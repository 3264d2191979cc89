"""`load_from` takes a checkpoint of any project; a run warns of another normalization than its weights'."""

import logging
import math
from itertools import count
from types import SimpleNamespace

import pytest
import small
import torch
from mmengine.config import Config

from beit_mm.checkpoint.files import read_file
from beit_mm.checkpoint.origins import from_ours
from beit_mm.checkpoint.state_dicts import find_weights
from beit_mm.config_check.weights import check_weights, compare_by_name
from beit_mm.engine import ConvertCheckpoint, launch
from beit_mm.engine.launch import build_runner
from beit_mm.models import BEiTPretrainer
from beit_mm.registry import MODELS

ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
POSITIONS = dict(img_size=32, patch_size=8, rel_pos_bias='per_layer', layer_scale=0.1)
BACKBONE = dict(type='beit_mm.BEiT', arch=ARCH, out_type='avg_featmap', **POSITIONS)
HEAD = dict(type='LinearClsHead', num_classes=3, in_channels=16)
HALF = dict(mean=[127.5] * 3, std=[127.5] * 3)
IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


def make_weights(head: bool = True, **settings) -> dict[str, torch.Tensor]:
    """Return random weights of a small classifier, or of a backbone that pre-training wrote."""
    torch.manual_seed(3)
    backbone = MODELS.build(BACKBONE | settings)
    state = {f'backbone.{k}': torch.randn_like(v) for k, v in backbone.state_dict().items()}
    if head:
        state |= {'head.fc.weight': torch.randn(3, 16), 'head.fc.bias': torch.randn(3)}
    return state


@pytest.fixture
def load(tmp_path, caplog):
    """Save a file, build the Runner of a classifier, and load the file into it; caplog has the log."""
    caplog.set_level(logging.INFO)
    runs = count()

    def call(
        content, name='a.pth', preprocessor=IMAGENET, backbone=BACKBONE, every_key=False, **cfg
    ):
        torch.save(content, tmp_path / name)
        preprocessor = dict(num_classes=3, **preprocessor)
        model = dict(data_preprocessor=preprocessor, backbone=backbone, head=HEAD)
        settings = dict(
            default_scope='mmpretrain',
            model=dict(model, type='ImageClassifier'),
            work_dir=str(tmp_path / 'work'),
            experiment_name=f'{tmp_path.name}_{next(runs)}',
            load_from=str(tmp_path / name),
        )
        run = build_runner(Config(settings | cfg), every_key)
        run.logger.addHandler(caplog.handler)
        run.load_or_resume()
        return run

    return call


# -- weights


@pytest.mark.parametrize(
    'origin, several', [('unilm', False), ('unilm', True), ('hf', False), ('mmseg', False)]
)
def test_a_published_segmentor_is_tested_with_its_config(tmp_path, origin, several):
    """The model has a pyramid, a decoder and an auxiliary head, also with multi-scale testing."""
    name = 'segmentation/beit-base_in22k-ft_upernet_8xb2-amp-160k_ade20k-640x640'
    cfg = small.shrink(small.load(name), None, tmp_path)
    if several:
        launch.augment_test(cfg)
    run = build_runner(cfg, every_key=True)
    model = run.model.module if several else run.model
    state = {k: torch.randn(v.shape) if v.ndim else v for k, v in model.state_dict().items()}
    assert any(key.startswith('auxiliary_head.') for key in state)
    torch.save(dict(state_dict=from_ours(state, origin), meta={}), tmp_path / 'published.pth')
    run.load_checkpoint(str(tmp_path / 'published.pth'))
    assert small.same_tensors(model.state_dict(), state)


def test_the_log_reports_every_key_of_a_pre_training_at_another_size(load, caplog):
    state = make_weights(head=False, rel_pos_bias='shared', mask_token=True, out_type='raw')
    state = from_ours(state, 'unilm')
    load(dict(model=state, model_ema=state), name='pt.pth', backbone=dict(BACKBONE, img_size=48))
    for line in (
        'pt.pth, written by unilm:',
        '1  skipped    rel_pos_bias.relative_position_index (follows from the grid)',
        '2  resized    blocks.*.attn.relative_position_bias_table (4×4 → 6×6 patches)',
        '1  new        head.fc.weight (not in the checkpoint)',
        "skipped    model_ema.* (the averaged weights: to load them, append #ema to the checkpoint's name)",
    ):
        assert line in caplog.text


@pytest.mark.parametrize('origin', ['unilm', 'timm', 'hf', 'mmpretrain', 'beit_mm'])
def test_a_classifier_of_any_project_is_reported_checked_and_loaded(origin, load, caplog):
    state = make_weights(abs_pos_embed=True, rel_pos_bias=None)
    backbone = dict(BACKBONE, abs_pos_embed=True, rel_pos_bias=None)
    written = dict(state_dict=from_ours(state, origin))
    assert small.same_tensors(
        load(written, backbone=backbone, every_key=True).model.state_dict(), state
    )
    assert f'{len(state)}  loaded' in caplog.text
    with pytest.raises(ValueError, match=r'trained with 4 heads.*Set arch\.num_heads=4'):
        load(dict(written, meta=dict(num_heads=4)), backbone=backbone)
    state['backbone.cls_token'][..., 0] = math.nan
    with pytest.raises(ValueError, match='holds NaN or infinity in cls_token'):
        load(dict(state_dict=from_ours(state, origin)), backbone=backbone)


def test_a_head_of_other_classes_is_skipped_in_training_and_an_error_in_testing(load, caplog):
    head = {'head.fc.weight': torch.randn(5, 16), 'head.fc.bias': torch.randn(5)}
    load(make_weights() | head)
    assert 'skipped    head.fc.weight (of another shape)' in caplog.text
    message = r'fit this ImageClassifier.*head\.fc\.bias: \(5,\) ≠ \(3,\)'
    with pytest.raises(ValueError, match=message):
        load(make_weights() | head, every_key=True)
    with pytest.raises(ValueError, match=r'does not fit this BEiT.*unexpected: blocks\.2\.'):
        load(make_weights(arch=ARCH | dict(num_layers=3)))


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


def test_a_model_with_another_backbone_is_loaded_by_mmengine(load):
    lenet = dict(type='mmpretrain.LeNet5', num_classes=3)
    state = {f'backbone.{k}': v for k, v in MODELS.build(lenet).state_dict().items()}
    model = dict(type='ImageClassifier', backbone=lenet, head=dict(type='ClsHead'))
    assert small.same_tensors(load(dict(state_dict=state), model=model).model.state_dict(), state)


def test_the_backbone_in_a_lora_model_is_compared_with_its_weights(tmp_path, load):
    """mmpretrain's LoRAModel loads the weights while it is built, then replaces layers."""
    path, weights = str(tmp_path / 'a.pth'), dict(state_dict=make_weights())
    torch.save(weights, path)
    backbone = dict(BACKBONE, init_cfg=dict(type='Pretrained', checkpoint=path))
    lora = dict(type='LoRAModel', module=backbone, alpha=2, rank=2, targets=[dict(type='qkv')])
    model = dict(type='ImageClassifier', backbone=lora, head=HEAD)
    cfg = dict(default_scope='mmpretrain', model=model)
    assert list(check_weights(cfg)) == []
    (finding,) = check_weights(cfg | dict(load_from=path))
    assert finding.stops and 'a.pth holds no LoRA weights' in str(finding)
    with pytest.raises(ValueError, match='none of its layers would be loaded'):
        load(weights, model=dict(model))
    backbone['arch'] = ARCH | dict(num_layers=3)
    (finding,) = check_weights(cfg)
    assert finding.stops and 'Missing: blocks.2.' in str(finding)


def test_parameter_names_that_look_like_a_wrapper_are_compared_as_they_are(tmp_path):
    """mmpretrain's TimmClassifier keeps its network as `model`."""
    model = torch.nn.Module()
    model.model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    torch.save(model.state_dict(), tmp_path / 'a.pth')
    state = find_weights(read_file(tmp_path / 'a.pth'), 'a.pth')[0]
    assert not list(compare_by_name(state, model, 'a.pth'))
    assert not list(compare_by_name(state, model.model, 'a.pth'))


# -- normalization

RGB, BGR = dict(to_rgb=True), dict(to_rgb=False)
ONE_HALF = dict(mean=[127.5], std=[127.5])
READS_BGR = 'trained on RGB images, this run reads BGR: set data_preprocessor.to_rgb=True'
READS_RGB = 'trained on BGR images, this run reads RGB: set data_preprocessor.to_rgb=False'


@pytest.mark.parametrize('source', ['load_from', 'init_cfg'])
@pytest.mark.parametrize(
    ('stored', 'own', 'warnings'),
    [
        (IMAGENET, IMAGENET | RGB, []),
        (HALF, IMAGENET | RGB, ['normalizes with mean [123.675']),
        (HALF, RGB, ['normalizes with no mean and std']),
        (HALF, ONE_HALF | RGB, []),
        (IMAGENET, ONE_HALF | RGB, ['normalizes with mean [127.5, 127.5, 127.5]']),
        (None, IMAGENET | RGB, []),
        # Older files and other projects store no order: they were trained on RGB.
        (IMAGENET, IMAGENET | BGR, [READS_BGR]),
        (IMAGENET | dict(channel_order='rgb'), BGR, ['normalizes with no mean', READS_BGR]),
        (IMAGENET | dict(channel_order='bgr'), IMAGENET | BGR, []),
        (IMAGENET | dict(channel_order='bgr'), IMAGENET | RGB, [READS_RGB]),
    ],
)
def test_another_normalization_than_that_of_the_weights_is_a_warning(
    source, stored, own, warnings, tmp_path, load, caplog
):
    content = dict(state_dict=make_weights(), meta=dict(normalization=stored) if stored else {})
    if source == 'load_from':
        run = load(content, preprocessor=own)
    else:
        pretrained = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'))
        backbone = dict(BACKBONE, init_cfg=pretrained)
        run = load(content, preprocessor=own, backbone=backbone, load_from=None)
        run.model.init_weights()
    hook = next(hook for hook in run.hooks if isinstance(hook, ConvertCheckpoint))
    for check in (hook.before_train, hook.before_test):
        caplog.clear()
        check(run)
        assert caplog.text.count('the weights were trained on') == len(warnings)
        assert all(warning in caplog.text for warning in warnings)


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
)
@pytest.mark.parametrize('values', [IMAGENET, ONE_HALF])
def test_a_checkpoint_stores_the_normalization(preprocessor, order, values):
    model, checkpoint = torch.nn.Module(), dict(meta={})
    model.data_preprocessor = MODELS.build(preprocessor | values)
    ConvertCheckpoint().before_save_checkpoint(SimpleNamespace(model=model), checkpoint)
    expected = HALF if values is ONE_HALF else IMAGENET
    assert checkpoint['meta']['normalization'] == expected | dict(channel_order=order)


def test_the_normalization_of_published_weights_follows_from_their_names(load, caplog):
    weights = dict(model=from_ours(make_weights(), 'unilm'))
    run = load(weights, name='beitv2_base_patch16_224_pt1k_ft1k.pth', preprocessor=HALF)
    run.call_hook('before_test')
    assert 'trained on images normalized with mean [123.675, 116.28, 103.53]' in caplog.text

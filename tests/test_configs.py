"""Every config builds at its real size, trains two iterations when shrunk, and starts from weights that exist."""

import math
import re
import runpy
from pathlib import Path

import mmpretrain
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.structures import SegDataSample
from shapes import draw as shapes
from small import CONFIGS, ROOT, backbone, each, load, shrink
from torch import nn

from beit_mm import checkpoint
from beit_mm.checkpoint.published import published
from beit_mm.engine import launch
from beit_mm.engine.launch import build_runner
from beit_mm.registry import MODELS

pytestmark = pytest.mark.usefixtures('unformatted')

PRETRAIN = 'pretrain/beit_vit-base-p16_8xb256-amp-coslr-800e_in1k'
FINETUNE = 'classification/vit-base-p16_8xb128-amp-coslr-100e_in1k'
FINETUNE_384 = 'classification/vit-base-p16_8xb64-amp-coslr-10e_in1k-384px'
IN22K = 'classification/beit-base-p16_in22k-pre_8xb128-amp-coslr-100e_in1k'
PROBE = 'classification/vit-base-p16_linear-probe_8xb128-amp-coslr-50e_in1k'
SEGMENT = 'segmentation/vit-base_in1k-ft_setr-pup_8xb2-amp-160k_ade20k-512x512'
METRICS = dict(mmpretrain='accuracy/top1', mmseg='mIoU')


def build(cfg: Config) -> nn.Module:
    init_default_scope(cfg.default_scope)
    if cfg.get('data_preprocessor'):
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return MODELS.build(cfg.model)


# -- shrunk ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', each(CONFIGS))
def test_two_iterations_on_shapes(name, few_shapes, tmp_path):
    cfg = shrink(load(name), few_shapes, tmp_path)
    runner = build_runner(cfg)
    runner.train()
    assert runner.iter == 2
    trained = runner.optim_wrapper.optimizer.state
    for parameter, value in runner.model.named_parameters():
        assert value in trained or not value.requires_grad, parameter
        assert value.isfinite().all(), parameter
    if cfg.get('val_dataloader') and cfg.default_scope in METRICS:
        value = runner.message_hub.get_scalar(f'val/{METRICS[cfg.default_scope]}').current()
        assert math.isfinite(value)


def test_a_segmentor_is_tested_at_several_scales(few_shapes, tmp_path):
    cfg = load(SEGMENT)
    launch.augment_test(cfg)
    runner = build_runner(shrink(cfg, few_shapes, tmp_path))
    assert math.isfinite(runner.test()['mIoU'])
    assert len(runner.test_dataloader.dataset[0]['inputs']) == 12


def test_a_classifier_is_tested_on_images_and_their_mirror_images(few_shapes, tmp_path):
    cfg = shrink(load(FINETUNE), few_shapes, tmp_path)
    launch.augment_test(cfg)
    runner = build_runner(cfg)
    assert math.isfinite(runner.test()['accuracy/top1'])
    batch = next(iter(runner.test_dataloader))
    image, mirrored = (inputs[0] for inputs in batch['inputs'])
    assert torch.equal(mirrored, image.flip(-1)) and not torch.equal(mirrored, image)
    model = runner.model.eval()
    with torch.no_grad():
        merged = model.test_step(batch)[0].pred_score
        stats = model.module.data_preprocessor
        normal = [(x.float().flip(0) - stats.mean) / stats.std for x in (image, mirrored)]  # BGR
        alone = model.module(torch.stack(normal)).softmax(1)
    torch.testing.assert_close(merged, alone.mean(0))


def test_merged_lora_weights_are_those_of_the_plain_config(few_shapes, tmp_path):
    """Only the additions and the head are trained, and a checkpoint holds nothing else."""
    source = tmp_path / 'beit.pth'
    plain = shrink(load(IN22K), few_shapes, tmp_path)
    torch.save(dict(state_dict=build(plain).state_dict()), source)
    (path,) = (ROOT / 'configs/lora').glob('*.py')
    cfg = shrink(Config.fromfile(path), few_shapes, tmp_path)
    backbone(cfg).init_cfg = dict(type='Pretrained', checkpoint=str(source))
    build_runner(cfg).train()
    model = build(cfg)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert {name.split('.')[-2] for name in trained} == {'lora_up', 'lora_down', 'fc'}
    for name, value in model.named_parameters():
        nn.init.normal_(value, std=0.3) if name in trained else None
    state = model.state_dict()
    assert {name for name in state if 'data_preprocessor' not in name} == trained
    script = Path(mmpretrain.__file__).parent / '.mim/tools/model_converters/merge_lora_weight.py'
    merge = runpy.run_path(str(script))['merge_lora_weight']
    merged = merge(cfg, dict(state_dict=state, meta={}))['state_dict']
    again = build(plain)
    again.load_state_dict(merged)
    images = torch.randn(2, 3, 224, 224)
    torch.testing.assert_close(again.eval()(images), model.eval()(images))


def test_tta_needs_a_pipeline(tmp_path):
    cfg = Config(dict(load(PRETRAIN).to_dict()))
    with pytest.raises(SystemExit, match='--tta: .* has no tta_model and tta_pipeline'):
        launch.augment_test(cfg)


@pytest.mark.parametrize(('name', 'grid'), [(FINETUNE_384, 24), (SEGMENT, 4)])
def test_fine_tuned_weights_start_384_pixels_and_segmentation(name, grid, few_shapes, tmp_path):
    first = shrink(load(FINETUNE), few_shapes, tmp_path / 'first')
    build_runner(first).train()
    path = str(tmp_path / 'first/epoch_1.pth')
    source = checkpoint.load(path)[0]
    real, cfg = load(name), shrink(load(name), few_shapes, tmp_path / 'second')
    backbone(cfg).init_cfg = dict(backbone(real).init_cfg, checkpoint=path)
    parts = ['backbone.blocks', 'backbone.patch', 'backbone.cls']
    if 'head' in cfg.model:
        cfg.model.head.init_cfg = dict(real.model.head.init_cfg, checkpoint=path)
        parts.append('head.')
    model = build_runner(cfg).model
    model.init_weights()
    state, same = model.state_dict(), [key for key in source if key.startswith(tuple(parts))]
    assert len(same) > 40 and all(torch.equal(state[key], source[key]) for key in same)
    positions = state['backbone.pos_embed']
    assert positions.shape == (1, grid**2 + 1, 32)
    assert torch.equal(positions[:, 0], source['backbone.pos_embed'][:, 0])


def test_a_linear_probe_averages_patches_and_trains_only_the_classifier(few_shapes, tmp_path):
    runner = build_runner(shrink(load(PROBE), few_shapes, tmp_path))
    model = runner.model
    model.init_weights()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    image = torch.randn(1, 3, 224, 224)
    x = model.backbone._embed(image, None, (14, 14))
    for block in model.backbone.blocks[:3]:  # of four; in the config 9 of 12
        x = block(x, (14, 14))
    torch.testing.assert_close(model.extract_feat(image)[0], x[:, 1:].mean(1))
    runner.train()
    after = model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {'head.fc.weight', 'head.fc.bias'}


def test_an_image_smaller_than_the_test_crop_is_padded(few_shapes, tmp_path):
    model = build(shrink(load(SEGMENT), few_shapes, tmp_path)).eval()
    shape = 32, 200
    sample = SegDataSample(metainfo=dict(ori_shape=shape, img_shape=shape))
    batch = dict(inputs=[torch.randint(256, (3, *shape), dtype=torch.uint8)], data_samples=[sample])
    with torch.no_grad():
        assert model.test_step(batch)[0].pred_sem_seg.shape == shape


# -- at its real size ------------------------------------------------------------------------------


@pytest.mark.parametrize('name', each(CONFIGS))
def test_a_config_builds_without_its_checkpoint(name):
    """Numbers of parameters are those of `test_shelf.py`."""
    with torch.device('meta'):
        build(load(name))


def test_pretraining_names_the_last_checkpoint_of_the_tokenizer():
    cfg = load(PRETRAIN)
    tokenizer = load(f'tokenizer/{cfg.tokenizer.split("/")[1]}')
    assert dict(tokenizer.model, **cfg.model.target.tokenizer) == tokenizer.model
    assert cfg.tokenizer.endswith(f'/iter_{tokenizer.train_cfg.max_iters}.pth')


# -- as text ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', CONFIGS)
def test_the_header_states_command_and_hardware(name):
    header = CONFIGS[name].read_text().split('_base_ =')[0][:1200]
    assert f'configs/{name}.py' in header and re.search(r'GPU|core', header)


FINETUNED = [name for name in CONFIGS if name.startswith(('classification/', 'segmentation/'))]


@pytest.mark.parametrize('name', FINETUNED)
def test_a_config_starts_from_published_weights_or_another_config(name):
    source = load(name).pretrained
    runs = {Path(other).name for other in CONFIGS}
    assert source in published() or source.split('/')[1] in runs


def test_quickstart_configs_state_the_classes_that_shapes_draws():
    assert load('quickstart/classification').classes == list(shapes.SPECIES)
    cfg = load('quickstart/segmentation')
    assert (cfg.classes, cfg.palette) == (list(shapes.CLASSES), shapes.PALETTE)


@pytest.mark.parametrize('name', [name for name in CONFIGS if name.startswith('quickstart/')])
def test_quickstart_configs_name_the_last_checkpoints(name):
    pattern = r'work_dirs/(?:quickstart/)?(\w+)/iter_(\d+)\.pth'
    for stage, iteration in re.findall(pattern, CONFIGS[name].read_text()):
        assert load(f'quickstart/{stage}').train_cfg.max_iters == int(iteration)

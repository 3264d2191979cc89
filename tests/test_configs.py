"""Every config: it builds at its real size, runs two iterations made small, can be read, and what it starts from exists."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from mmengine.registry import init_default_scope
from mmseg.structures import SegDataSample
from shapes import draw as shapes
from small import CONFIGS, TRAINED, backbone, each, load, shrink, shrink_sizes

from beit_mm import checkpoint
from beit_mm.checkpoint.published import published
from beit_mm.engine.launch import build_runner
from beit_mm.registry import MODELS

pytestmark = pytest.mark.usefixtures('unformatted')


@pytest.fixture(scope='session')
def data(tmp_path_factory) -> Path:
    """Twelve images of Shapes to train on, four to validate, in both layouts."""
    out = tmp_path_factory.mktemp('configs') / 'shapes'
    shapes.write(out, train=12, val=4, size=64, segmentation_train=12, segmentation_val=4, jobs=1)
    return out


# -- it runs, small --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', each(CONFIGS))
def test_two_iterations_on_shapes(name, data, tmp_path):
    cfg = shrink(load(name), data, tmp_path)
    if name.endswith('_ms'):
        assert math.isfinite(build_runner(cfg).test()['mIoU'])
        return
    runner = build_runner(cfg)
    runner.train()
    assert runner.iter == 2
    trained = runner.optim_wrapper.optimizer.state
    assert [
        n for n, p in runner.model.named_parameters() if p.requires_grad and p not in trained
    ] == []
    assert all(p.isfinite().all() for p in runner.model.parameters())
    if cfg.get('val_dataloader'):
        lines = [
            json.loads(line)
            for line in next(tmp_path.rglob('scalars.json')).read_text().splitlines()
        ]
        metric = dict(mmpretrain='accuracy/top1', mmseg='mIoU').get(cfg.default_scope)
        assert metric is None or math.isfinite(lines[-1][metric])


def test_weights_go_on_from_224_to_384_pixels_and_to_segmentation(data, tmp_path):
    """The paper's chain: fine-tune, go on at 384 px with head and all, segment with the same backbone."""
    first = shrink(
        load('classification/vit-base-p16_8xb128-amp-coslr-100e_in1k'), data, tmp_path / 'first'
    )
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
        same = [
            k for k in source if k.startswith(('backbone.blocks', 'backbone.patch', 'backbone.cls'))
        ]
        same += [k for k in source if k.startswith('head.') and 'head' in cfg.model]
        assert len(same) > 40 and all(torch.equal(state[k], source[k]) for k in same)
        assert state['backbone.pos_embed'].shape == (1, size**2 + 1, 32)
        assert torch.equal(state['backbone.pos_embed'][:, 0], source['backbone.pos_embed'][:, 0])


def test_a_linear_probe_reads_the_mean_of_its_layers_patches_and_moves_the_classifier_alone(
    data, tmp_path
):
    runner = build_runner(
        shrink(
            load('classification/vit-base-p16_linear-probe_8xb128-amp-coslr-50e_in1k'),
            data,
            tmp_path,
        )
    )
    model = runner.model
    model.init_weights()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    image = torch.randn(1, 3, 224, 224)
    x = model.backbone._embed(image, None, (14, 14))
    for block in model.backbone.blocks[:3]:  # of four; in the config 9 of 12
        x = block(x, (14, 14))
    torch.testing.assert_close(model.extract_feat(image)[0], x[:, 1:].mean(1))
    runner.train()
    moved = {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert moved == {'head.fc.weight', 'head.fc.bias'}


def test_a_panorama_thinner_than_the_crop_is_padded_to_it(data, tmp_path):
    cfg = shrink(
        load('segmentation/vit-base_setr-pup_8xb2-amp-160k_ade20k-512x512'), data, tmp_path
    )
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model).eval()
    shape = (32, 200)
    sample = SegDataSample(metainfo=dict(ori_shape=shape, img_shape=shape))
    batch = dict(inputs=[torch.randint(256, (3, *shape), dtype=torch.uint8)], data_samples=[sample])
    with torch.no_grad():
        assert model.test_step(batch)[0].pred_sem_seg.shape == shape


# -- at its real size -------------------------------------------------------------------------------------------------

# Million parameters, as the official README gives them (heads for the data set included).
MILLIONS = {
    'pretrain/beit_beit-base-p16_8xb256-amp-coslr-800e_in1k': 91.97,  # unilm issue 383
    'tokenizer/dvae_64xb8-coslr-3000k_in1k-256px': 97.62,  # DALL-E's 53 786 240 + 43 829 766
    'classification/beit-base-p16_8xb128-amp-coslr-100e_in1k': 86.5,
    'classification/beit-large-p16_8xb128-amp-coslr-50e_in1k': 304.4,
    'classification/beit-base-p16_in22k-ft_8xb64-amp-coslr-30e_in1k-384px': 86.7,
    'classification/beit-large-p16_in22k-ft_8xb64-amp-coslr-30e_in1k-384px': 305.0,
    'classification/beit-large-p16_in22k-ft_8xb64-amp-coslr-30e_in1k-512px': 305.7,
    'segmentation/beit-base_in22k-ft_upernet_8xb2-amp-160k_ade20k-640x640': 163,
    'segmentation/beit-large_in22k-ft_upernet_8xb1-amp-320k_ade20k-640x640': 441,
}


@pytest.mark.parametrize('name', each(CONFIGS))
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


def test_pretraining_without_a_tokenizer_stops_and_names_the_run_that_makes_one():
    cfg = load('pretrain/beit_vit-base-p16_8xb256-amp-coslr-800e_in1k')
    tokenizer = load(f'tokenizer/{cfg.tokenizer.split("/")[1]}')
    assert {k: v for k, v in cfg.model.target.tokenizer.items() if tokenizer.model[k] != v} == {}
    assert (
        cfg.tokenizer.endswith(f'/iter_{tokenizer.train_cfg.max_iters}.pth')
        and not Path(cfg.tokenizer).exists()
    )
    shrink_sizes(cfg.model)
    init_default_scope(cfg.default_scope)
    with pytest.raises(FileNotFoundError, match=re.escape(cfg.tokenizer)):
        MODELS.build(cfg.model).init_weights()


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
        assert place in published()


def test_quickstart_names_what_shapes_draws():
    assert load('quickstart/classification').classes == list(shapes.SPECIES)
    cfg = load('quickstart/segmentation')
    assert (cfg.classes, cfg.palette) == (list(shapes.CLASSES), shapes.PALETTE)


@pytest.mark.parametrize('name', [name for name in CONFIGS if name.startswith('quickstart/')])
def test_checkpoints_that_a_quickstart_page_names_are_those_its_run_ends_with(name):
    for stage, last in re.findall(
        r'work_dirs/(?:quickstart/)?(\w+)/iter_(\d+)\.pth', CONFIGS[name].read_text()
    ):
        assert load(f'quickstart/{stage}').train_cfg.max_iters == int(last)

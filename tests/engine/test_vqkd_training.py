"""A training of VQ-KD resumes exactly, skips non-finite steps with its codes, and runs in AMP."""

import logging
import math

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from small import ARCH, load, same_tensors, shrink

from beit_mm.apis import TokenizerInferencer, deploy
from beit_mm.checkpoint import load_model
from beit_mm.checkpoint.files import read_file
from beit_mm.config_check.preflight import preflight
from beit_mm.engine.launch import build_runner
from beit_mm.utils.config_tree import find, kind, nodes
from beit_mm.viz.model_weights import ModelWeights

pytestmark = pytest.mark.usefixtures('unformatted')


def config(few_shapes, folder, iters: int = 6) -> Config:
    torch.manual_seed(0)  # of the teacher
    cfg = shrink(load('quickstart_v2/tokenizer'), few_shapes, folder)
    cfg.train_dataloader.dataset.dataset.indices = 12
    cfg.train_cfg.update(max_iters=iters, val_interval=iters)
    cfg.param_scheduler = []
    cfg.default_hooks.checkpoint.interval = 3
    cfg.default_hooks.logger = dict(type='LoggerHook', interval=1)
    return cfg


def test_a_resumed_run_has_the_same_weights_and_codes(few_shapes, tmp_path):
    build_runner(config(few_shapes, tmp_path / 'one')).train()
    build_runner(config(few_shapes, tmp_path / 'two', iters=3)).train()
    cfg = config(few_shapes, tmp_path / 'two')
    cfg.resume = True
    build_runner(cfg).train()
    one, two = (read_file(tmp_path / name / 'iter_6.pth')['state_dict'] for name in ('one', 'two'))
    third = read_file(tmp_path / 'one/iter_3.pth')['state_dict']
    assert not torch.equal(one['codebook.codes'], third['codebook.codes'])
    assert same_tensors(one, two) and not any('teacher' in key for key in one)


class Break(Hook):
    """Makes the vectors of iteration 3 infinite, and records the codes after each iteration."""

    def __init__(self):
        self.codes = []

    def before_train(self, runner) -> None:
        def corrupt(module, inputs, output):
            return output * math.nan if runner.iter == 2 and module.training else output

        runner.model.encoder_head.register_forward_hook(corrupt)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.codes.append(runner.model.codebook.codes.clone())


@pytest.mark.parametrize('amp', [False, True])
def test_a_non_finite_step_changes_no_code(amp, few_shapes, tmp_path, caplog):
    cfg = config(few_shapes, tmp_path)
    if amp:
        cfg.optim_wrapper.update(type='AmpOptimWrapper', dtype='bfloat16')
    runner, hook = build_runner(cfg), Break()
    runner.register_hook(hook, priority='VERY_LOW')
    with caplog.at_level(logging.WARNING, 'mmengine'):
        runner.train()
    moved = [not torch.equal(a, b) for a, b in zip(hook.codes, hook.codes[1:], strict=False)]
    assert moved == [True, False, True, True, True]
    assert all(codes.isfinite().all() and codes.dtype == torch.float32 for codes in hook.codes)
    metrics = runner.message_hub
    assert -1 <= metrics.get_scalar('val/tokenizer/cosine').current() <= 1
    assert metrics.get_scalar('train/codes_used').current() >= 1


def test_a_missing_teacher_is_found_before_training(few_shapes, tmp_path):
    cfg = config(few_shapes, tmp_path)
    assert [str(found) for found in preflight(cfg) if found.stops] == []
    cfg.model.teacher.checkpoint = f'{tmp_path}/gone.pth'
    assert any('gone.pth not found' in str(found) for found in preflight(cfg) if found.stops)
    cfg.model.teacher.checkpoint = None
    stops = [str(found) for found in preflight(cfg) if found.stops]
    assert any('model.teacher: the teacher has no weights' in found for found in stops)
    with pytest.raises(FileNotFoundError, match='the teacher'):
        build_runner(cfg).train()


def test_more_codes_than_patches_stop_the_run_before_training(few_shapes, tmp_path):
    cfg = config(few_shapes, tmp_path)
    cfg.model.vocab_size = cfg.val_evaluator.vocab_size = cfg.test_evaluator.vocab_size = 1000
    cfg.custom_hooks = [dict(type='InitCodebook', num_images=4)]
    with pytest.raises(ValueError, match='1000 codes cannot start from 256 patches of 4 images'):
        build_runner(cfg).train()


@pytest.fixture(scope='module')
def trained(few_shapes, tmp_path_factory):
    """Return the config, the checkpoint and the model of a finished training."""
    folder = tmp_path_factory.mktemp('trained')
    cfg = config(few_shapes, folder, iters=3)
    runner = build_runner(cfg)
    runner.train()
    cfg.dump(folder / 'config.py')
    return folder / 'config.py', folder / 'iter_3.pth', runner.model.eval()


def pretraining(few_shapes, folder, checkpoint) -> Config:
    cfg = shrink(load('quickstart/pretrain'), few_shapes, folder)
    encoder = dict(arch=ARCH, img_size=64, patch_size=8)
    cfg.model.target.tokenizer = dict(type='VQKD', vocab_size=32, code_dims=16, encoder=encoder)
    cfg.model.target.checkpoint = str(checkpoint)
    for node in nodes([cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader]):
        if kind(node) == 'TwoViews':
            node.token_size = 64
    return cfg


def test_pre_training_predicts_its_tokens(few_shapes, trained, tmp_path):
    cfg = pretraining(few_shapes, tmp_path, trained[1])
    assert [str(found) for found in preflight(cfg) if found.stops] == []
    runner = build_runner(cfg)
    runner.train()
    assert runner.model.target_fingerprint == trained[2].fingerprint()
    assert math.isfinite(runner.message_hub.get_scalar('val/mim/val_loss').current())
    view = torch.rand(2, 3, 64, 64)
    assert torch.equal(runner.model.target(dict(token_view=view)), trained[2].tokens(view))


def test_a_token_view_of_the_discrete_vae_is_found_before_training(few_shapes, trained, tmp_path):
    cfg = pretraining(few_shapes, tmp_path, trained[1])
    find(cfg.train_dataloader, 'TwoViews').token_size = 32
    (stop,) = [str(found) for found in preflight(cfg) if found.stops]
    assert stop == 'TwoViews.token_size=32: 4×4 tokens of 8 pixels for 8×8 patches: set 64'


def test_a_checkpoint_alone_builds_the_tokenizer_and_a_config_exports_it(trained, tmp_path):
    config_file, checkpoint, model = trained
    views = torch.rand(2, 3, 64, 64)
    alone = ModelWeights(str(checkpoint)).tokenizer()  # with the number of heads
    assert alone.teacher is None and torch.equal(alone.tokens(views), model.tokens(views))
    inferencer = TokenizerInferencer(config_file, checkpoint, device='cpu', show_progress=False)
    image = (255 * views[0]).round().to(torch.uint8)
    (found,) = inferencer([image.permute(1, 2, 0).numpy()[..., ::-1].copy()])['predictions']
    assert found == dict(ids=model.tokens(image[None] / 255)[0].tolist())
    deployed = deploy.Deployed(load_model(config_file, checkpoint)).eval()
    size = deploy.image_size(deployed)
    for file_format, suffix in deploy.FORMATS.items():
        deploy.export(deployed, tmp_path / f'a{suffix}', file_format, size)
        assert deploy.largest_difference(deployed, tmp_path / f'a{suffix}', file_format, size) == 0

"""A training of VQ-KD resumes exactly, skips non-finite steps with its codes, and runs in AMP."""

import logging
import math

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from small import load, same_tensors, shrink

from beit_mm.checkpoint.files import read_file
from beit_mm.config_check.preflight import preflight
from beit_mm.engine.launch import build_runner

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

"""Between two lines of the log the host never waits for the device; the log has means over ranks."""

import json
import math
import sys
from collections import Counter
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from shapes.draw import write
from small import load, shrink
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from trials import toy

from beit_mm.checkpoint.files import read_file
from beit_mm.engine.hooks.deferred_log import DeferredLog, defer
from beit_mm.engine.launch import build_runner
from beit_mm.models import relative_position
from beit_mm.registry import MODELS

# -- means over ranks


def train(folder: Path, ranks: int, iters: int = 6, bad: int = 0, interval: int = 2) -> list[float]:
    """Return the losses that the last checkpoint keeps of a run with a global batch of six.

    On the last rank the loss of iteration `bad` is NaN. Every iteration is saved.
    """
    launcher = 'pytorch' if ranks > 1 else 'none'
    cfg = toy.config(folder / 'run', iters=iters, val=100, launcher=launcher)
    cfg.train_dataloader.batch_size = 6 // ranks
    cfg.default_hooks.logger = dict(type='LoggerHook', interval=interval)
    cfg.log_processor = dict(window_size=1, by_epoch=False)

    def call(rank: int) -> None:
        forward, calls = toy.ToyModel.forward, count(1)

        def forward_once_bad(self, inputs: torch.Tensor, mode: str = 'loss') -> object:
            found = forward(self, inputs, mode)
            if next(calls) == bad and rank == ranks - 1:
                return dict(loss=found['loss'] * math.nan)
            return found

        toy.ToyModel.forward = forward_once_bad
        toy.train(cfg)

    port = toy.free_port()
    processes = []
    for rank in range(ranks):
        place = dict(rank=rank, ranks=ranks, port=port) if ranks > 1 else {}
        processes.append(toy.start(call, rank, log=folder / f'log_{rank}', **place))
    for rank, process in enumerate(processes):
        process.join(300)
        assert process.exitcode == 0, (folder / f'log_{rank}').read_text()[-3000:]
    hub = read_file(folder / f'run/iter_{iters}.pth')['message_hub']
    return hub['log_scalars']['train/loss'].data[0].tolist()


@pytest.fixture(scope='module')
def expected(tmp_path_factory) -> list[float]:
    losses = train(tmp_path_factory.mktemp('one'), 1)
    assert len(set(losses)) == 6
    return losses


@pytest.mark.parametrize('ranks', [2, 3])
def test_the_logged_loss_is_that_of_one_rank_with_the_global_batch(ranks, expected, tmp_path):
    assert train(tmp_path, ranks) == pytest.approx(expected, rel=1e-6)
    (log,) = (tmp_path / 'run').glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    logged = {line['step']: line['loss'] for line in lines if 'lr' in line}
    assert logged == pytest.approx({step: expected[step - 1] for step in (2, 4, 6)}, rel=1e-6)


def test_a_checkpoint_between_two_lines_of_the_log_has_means_too(tmp_path):
    losses = {}
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        losses[ranks] = [
            train(folder, ranks, iters=3, interval=5),
            train(folder, ranks, iters=6, interval=5),  # resumes
        ]
    for one, two in zip(losses[1], losses[2], strict=True):
        assert two == pytest.approx(one, rel=1e-6)


def test_a_skipped_step_is_logged_as_nan_and_ranks_do_not_wait(tmp_path):
    losses = train(tmp_path, 2, bad=4)
    assert [math.isnan(loss) for loss in losses] == [False, False, False, True, False, False]


# -- no waiting for the device

# item, float, bool, tolist, a bool index, …
WAITS = ('_local_scalar_dense', 'nonzero', 'masked_select', 'unique', 'equal')
# These read values on the host only (`can_read_values`).
ON_THE_HOST = {'select_masked_patches', '_are_in_unit_range', '_check_range'}


class Waits(TorchDispatchMode):
    """Counts operations that wait for the device, by the function of ours or mmengine's that calls them."""

    def __init__(self):
        super().__init__()
        self.counts: Counter | None = None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split('::')[1].split('.')[0]
        if self.counts is not None and name.startswith(WAITS):
            self.counts[self._caller()] += 1
        return func(*args, **(kwargs or {}))

    def _caller(self) -> str:
        frame = sys._getframe(2)
        while frame and not {'beit_mm', 'mmengine'} & set(Path(frame.f_code.co_filename).parts):
            frame = frame.f_back
        return frame.f_code.co_name if frame else '?'


class Iterations(Hook):
    """Counts waits in iterations that log nothing."""

    priority = 'VERY_LOW'

    def __init__(self, waits: Waits, interval: int):
        self.waits, self.interval, self.found = waits, interval, Counter()

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        self.waits.counts = Counter()

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        # The first iteration creates what later ones have.
        if runner.iter and (runner.iter + 1) % self.interval:
            self.found += self.waits.counts
        self.waits.counts = None


@pytest.fixture(scope='module')
def shapes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('shapes')
    write(folder, 8, 4, size=64, jobs=1)
    return folder


def run(shapes: Path, folder: Path, name: str, deferred: bool) -> tuple[Counter, dict]:
    torch.manual_seed(0)  # of the tokenizer's weights
    cfg = shrink(load('quickstart/pretrain'), shapes, folder)
    cfg.train_cfg.update(max_iters=8, val_interval=100)
    cfg.default_hooks.logger = dict(type='LoggerHook', interval=4)
    cfg.log_level, cfg.experiment_name = 'ERROR', name
    runner = build_runner(cfg)
    if not deferred:
        runner._hooks = [hook for hook in runner.hooks if not isinstance(hook, DeferredLog)]
    waits = Waits()
    iterations = Iterations(waits, 4)
    runner.register_hook(iterations)
    with waits:
        runner.train()
    scalars = runner.message_hub.log_scalars
    return iterations.found, {key: buffer.data for key, buffer in scalars.items()}


def test_no_iteration_waits_and_the_log_is_the_stock_one(shapes, tmp_path, unformatted):
    stock, expected = run(shapes, tmp_path, 'stock', False)
    found, logged = run(shapes, tmp_path, 'ours', True)
    assert set(found) <= ON_THE_HOST
    assert stock['_get_valid_value'] == 5 * 4  # loss, accuracy, entropy, gradient norm
    same = [key for key in expected if 'time' not in key]
    assert {'train/loss', 'train/grad_norm', 'train/masked_accuracy', 'train/lr'} <= set(same)
    for key in same:
        np.testing.assert_array_equal(logged[key], expected[key])


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason='this torch has no CUDA')
def test_on_a_gpu_the_forward_pass_of_pretraining_does_not_wait(tmp_path, monkeypatch):
    """Uses tensors that have a device and no contents: reading one raises."""
    # A constant of the cache is a real tensor, on a real GPU.
    uncached = relative_position._position_index.__wrapped__
    monkeypatch.setattr(relative_position, '_position_index', uncached)
    cfg = shrink(load('pretrain/beit_beit-base-p16_8xb256-amp-coslr-800e_in1k'), None, tmp_path)
    model = MODELS.build(cfg.model)
    assert model.target.tokenizer
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device('cuda'):
            inputs = dict(
                patch_view=torch.rand(2, 3, 224, 224),
                token_view=torch.rand(2, 3, 112, 112),
                mask=torch.zeros(2, 14, 14, dtype=torch.bool),
            )
        model.to('cuda')
        loss = model.loss(inputs)['loss']
        assert loss.device.type == 'cuda' and loss.requires_grad
        with pytest.raises(Exception, match='_local_scalar_dense'):
            loss.item()


# -- reading


def test_values_are_the_stock_ones_whenever_they_are_read():
    stock, ours = MessageHub('stock'), MessageHub('ours')
    defer(ours)
    for step in range(3):
        for hub in (stock, ours):
            hub.update_scalar('train/loss', torch.tensor(0.1 * step))
            hub.update_scalar('train/loss', 7.0)
            hub.update_scalar('train/count', torch.tensor([step]), count=2)
            hub.update_scalar('train/lr', 0.5)
        assert ours.get_scalar('train/lr').current() == 0.5 and ours.pending['train/count']
    assert ours.get_scalar('train/count').current() == 2 and not ours.pending['train/count']
    found, expected = (hub.state_dict()['log_scalars'] for hub in (ours, stock))
    assert found.keys() == expected.keys()
    for key in expected:
        np.testing.assert_array_equal(found[key].data, expected[key].data)
    with pytest.raises(KeyError, match='train/nothing'):
        ours.get_scalar('train/nothing')
    with pytest.raises(ValueError, match='train/loss has 2 values'):
        ours.update_scalar('train/loss', torch.zeros(2))


def test_a_value_that_is_overwritten_in_place_is_logged_as_it_was():
    """CUDA graphs write each iteration's loss to the same place."""
    hub, loss = MessageHub('overwritten'), torch.zeros(())
    defer(hub)
    for step in range(3):
        hub.update_scalar('train/loss', loss.fill_(step))
    assert hub.get_scalar('train/loss').data[0].tolist() == [0, 1, 2]

"""Between two logging intervals the host never waits for the device, and what is logged is a mean over ranks."""

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


def losses(folder: Path, ranks: int, bad: int = 0) -> list[float]:
    """Logged losses of six iterations on batches of six; on the last rank the loss of iteration `bad` is NaN.

    The log has iterations 2, 4 and 6, the checkpoint all.
    """
    cfg = toy.config(folder / 'run', iters=6, val=100, launcher='pytorch' if ranks > 1 else 'none')
    cfg.train_dataloader.batch_size = 6 // ranks
    cfg.default_hooks.logger = dict(type='LoggerHook', interval=2)
    cfg.log_processor = dict(window_size=1, by_epoch=False)
    port = toy.free_port()

    def call(rank: int) -> None:
        forward, calls = toy.ToyModel.forward, count(1)

        def forward_once_bad(self, inputs: torch.Tensor, mode: str = 'loss') -> object:
            found = forward(self, inputs, mode)
            return (
                dict(loss=found['loss'] * math.nan)
                if next(calls) == bad and rank == ranks - 1
                else found
            )

        toy.ToyModel.forward = forward_once_bad
        toy.train(cfg)

    where = [dict(rank=rank, ranks=ranks, port=port) if ranks > 1 else {} for rank in range(ranks)]
    started = [
        toy.start(call, rank, log=folder / f'log_{rank}', **place)
        for rank, place in enumerate(where)
    ]
    for rank, process in enumerate(started):
        process.join(300)
        assert process.exitcode == 0, (folder / f'log_{rank}').read_text()[-3000:]
    (log,) = (folder / 'run').glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    saved = (
        read_file(folder / 'run/iter_6.pth')['message_hub']['log_scalars']['train/loss']
        .data[0]
        .tolist()
    )
    logged = {line['step']: line['loss'] for line in lines if 'lr' in line}
    np.testing.assert_equal(logged, {2: saved[1], 4: saved[3], 6: saved[5]})
    return saved


@pytest.mark.parametrize('ranks', [2, 3])
def test_the_logged_loss_is_that_of_one_rank_on_the_whole_batch(ranks, tmp_path):
    (tmp_path / 'one').mkdir()
    expected = losses(tmp_path / 'one', 1)
    assert len(set(expected)) == 6
    assert losses(tmp_path, ranks) == pytest.approx(expected, rel=1e-6)


def test_ranks_that_skip_a_non_finite_step_log_it_and_wait_for_no_other(tmp_path):
    found = losses(tmp_path, 2, bad=4)
    assert [math.isnan(loss) for loss in found] == [False, False, False, True, False, False]


WAITS = (
    '_local_scalar_dense',
    'nonzero',
    'masked_select',
    'unique',
    'equal',
)  # item, float, bool, tolist, a bool index, …
ON_THE_HOST = {
    'select_masked_patches',
    '_are_in_unit_range',
}  # look at a batch that is on the host anyway, on a GPU they do not


class Waits(TorchDispatchMode):
    """Counts, in an iteration, what waits for the device, by the function of ours or mmengine's that asks."""

    def __init__(self):
        super().__init__()
        self.counts: Counter | None = None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split('::')[1].split('.')[0]
        if self.counts is not None and name.startswith(WAITS):
            self.counts[self._who()] += 1
        return func(*args, **(kwargs or {}))

    def _who(self) -> str:
        frame = sys._getframe(2)
        while frame and not {'beit_mm', 'mmengine'} & set(Path(frame.f_code.co_filename).parts):
            frame = frame.f_back
        return frame.f_code.co_name if frame else '?'


class Iterations(Hook):
    """Has `waits` count from just before an iteration to just after it, iterations that log left out."""

    priority = 'VERY_LOW'

    def __init__(self, waits: Waits, interval: int):
        self.waits, self.interval, self.found = waits, interval, Counter()

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        self.waits.counts = Counter()

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if (
            runner.iter + 1
        ) % self.interval and runner.iter:  # the first one makes what later ones have
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
    return iterations.found, {
        key: buffer.data for key, buffer in runner.message_hub.log_scalars.items()
    }


def test_no_iteration_waits_and_all_is_logged(shapes, tmp_path, unformatted):
    stock, expected = run(shapes, tmp_path, 'stock', False)
    found, logged = run(shapes, tmp_path, 'ours', True)
    assert set(found) <= ON_THE_HOST
    assert stock['_get_valid_value'] == 5 * 4  # loss, accuracy, entropy, the gradient's norm
    same = [key for key in expected if 'time' not in key]
    assert {'train/loss', 'train/grad_norm', 'train/masked_accuracy', 'train/lr'} <= set(same)
    for key in same:
        for mine, theirs in zip(logged[key], expected[key], strict=True):
            assert (mine == theirs).all()


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason='this torch knows no GPU')
def test_on_a_gpu_the_forward_pass_of_pretraining_waits_for_nothing(tmp_path, monkeypatch):
    """With tensors that have a device and no contents: reading one would raise."""
    # A constant of the cache is a real tensor, on a real GPU.
    monkeypatch.setattr(
        relative_position, '_position_index', relative_position._position_index.__wrapped__
    )
    cfg = shrink(load('pretrain/beit_beit-base-p16_8xb256-amp-coslr-800e_in1k'), None, tmp_path)
    model = MODELS.build(cfg.model)
    assert model.target.tokenizer
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device('cuda'):
            inputs = dict(
                patch_view=torch.rand(2, 3, 224, 224), token_view=torch.rand(2, 3, 112, 112),
                mask=torch.zeros(2, 14, 14, dtype=torch.bool),
            )  # fmt: skip
        model.to('cuda')
        loss = model.loss(inputs)['loss']
        assert loss.device.type == 'cuda' and loss.requires_grad
        with pytest.raises(Exception, match='_local_scalar_dense'):
            loss.item()


def test_the_log_is_the_stock_one_whenever_it_is_read():
    stock, ours = MessageHub('stock'), MessageHub('ours')
    defer(ours)
    for step in range(3):
        for hub in (stock, ours):
            hub.update_scalar('train/loss', torch.tensor(0.1 * step))
            hub.update_scalar('train/loss', 7.0)
            hub.update_scalar('train/count', torch.tensor([step]), count=2)
            hub.update_scalar('train/lr', 0.5)
        assert ours.get_scalar('train/lr').current() == 0.5 and ours.pending
    assert ours.get_scalar('train/count').current() == 2 and not ours.pending
    for key, buffer in stock.state_dict()['log_scalars'].items():
        mine = ours.state_dict()['log_scalars'][key]
        for mine_data, data in zip(mine.data, buffer.data, strict=True):
            assert (mine_data == data).all()
    with pytest.raises(KeyError, match='train/nothing'):
        ours.get_scalar('train/nothing')
    with pytest.raises(ValueError, match='train/loss has 2 values'):
        ours.update_scalar('train/loss', torch.zeros(2))


def test_what_is_overwritten_after_it_was_logged_is_not_what_is_logged():
    """CUDA graphs write each iteration's loss to the same place."""
    hub, loss = MessageHub('overwritten'), torch.zeros(())
    defer(hub)
    for step in range(3):
        hub.update_scalar('train/loss', loss.fill_(step))
    assert hub.get_scalar('train/loss').data[0].tolist() == [0, 1, 2]

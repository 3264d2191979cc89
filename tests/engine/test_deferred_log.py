"""Between two lines of the log the host never waits for the device; the log has means over ranks."""

import json
import math
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from small import load, read_scalars, shrink
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from trials import toy

from beit_mm.checkpoint.files import read_file
from beit_mm.engine.hooks import deferred_log
from beit_mm.engine.hooks.deferred_log import DeferredLog, defer
from beit_mm.engine.launch import build_runner
from beit_mm.engine.process_group import join
from beit_mm.models import relative_position
from beit_mm.registry import MODELS

# -- means over ranks


def train(folder: Path, ranks: int, interval: int) -> list[float]:
    """Return the losses of the last checkpoint of a run with a global batch of six.

    It is resumed after iteration 3, and in iteration 4 the loss of the last rank is NaN.
    """

    def call(rank: int) -> None:
        forward = toy.ToyModel.forward

        def forward_once_bad(self, inputs: torch.Tensor, mode: str = 'loss') -> object:
            found, is_last = forward(self, inputs, mode), rank == ranks - 1
            if mode == 'loss' and is_last and toy.runners[-1].iter == 3:
                found['loss'] *= math.nan
            return found

        toy.ToyModel.forward = forward_once_bad
        toy.train(cfg)

    for iters in (3, 6):
        cfg = toy.config(folder / 'run', iters=iters, val=100)
        cfg.launcher = 'pytorch' if ranks > 1 else 'none'
        cfg.train_dataloader.batch_size = 6 // ranks
        cfg.default_hooks.logger = dict(type='LoggerHook', interval=interval)
        cfg.log_processor = dict(window_size=1, by_epoch=False)
        toy.run_ranks(call, ranks, folder)
    hub = read_file(folder / 'run/iter_6.pth')['message_hub']
    return hub['log_scalars']['train/loss'].data[0].tolist()


@pytest.fixture(scope='module')
def expected(tmp_path_factory) -> list[float]:
    losses = train(tmp_path_factory.mktemp('one'), ranks=1, interval=2)
    assert [math.isnan(loss) for loss in losses] == [False, False, False, True, False, False]
    assert len(set(losses)) == 6
    return losses


@pytest.mark.parametrize('ranks, interval', [(2, 2), (3, 5)])
def test_log_and_checkpoint_hold_the_losses_of_one_rank_with_the_global_batch(
    ranks, interval, expected, tmp_path
):
    """Checkpoints between two lines of the log, too; a skipped step is NaN."""
    assert train(tmp_path, ranks, interval) == pytest.approx(expected, rel=1e-6, nan_ok=True)
    lines = read_scalars(tmp_path / 'run')
    logged = {line['step']: line['loss'] for line in lines if 'lr' in line}
    assert interval in logged
    for step, loss in logged.items():
        assert loss == pytest.approx(expected[step - 1], rel=1e-6, nan_ok=True)


def average(rank: int, folder: Path) -> None:
    """Write what a rank has after averages of equal keys, of other keys, and of nothing."""
    join('pytorch', 'gloo')
    hub, gathered = MessageHub(f'rank {rank}'), []
    defer(hub)
    deferred_log.all_gather_object = lambda data: gathered.append(data) or all_gather_object(data)
    for step in range(3):
        for key in ('b', 'a')[:: 1 - 2 * rank]:  # in another order on each rank
            hub.update_scalar(key, torch.tensor(10.0 * step + rank))
    hub.average()
    assert not gathered  # equal keys are averaged as numbers
    hub.update_scalar('a', 4.0 + rank)
    hub.update_scalar(f'only {rank}', 7.0 + rank)
    for _ in range(1 + rank):
        hub.update_scalar('b', 1.0 + rank)
    hub.average()
    assert len(gathered) == 1
    hub.average()
    values = {key: buffer.data[0].tolist() for key, buffer in hub.log_scalars.items()}
    (folder / f'{rank}.json').write_text(json.dumps(values))


def test_keys_that_all_ranks_have_are_averaged_without_gathering_objects(tmp_path):
    toy.run_ranks(lambda rank: average(rank, tmp_path), 2, tmp_path)
    found = [json.loads((tmp_path / f'{rank}.json').read_text()) for rank in range(2)]
    means = [0.5, 10.5, 20.5]
    assert found[0] == {'a': [*means, 4.5], 'b': [*means, 1], 'only 0': [7]}
    assert found[1] == {'a': [*means, 4.5], 'b': [*means, 2, 2], 'only 1': [8]}


# -- no waiting for the device

# item, float, bool, tolist, a bool index, …
WAITS = ('_local_scalar_dense', 'nonzero', 'masked_select', 'unique', 'equal')
# These read values on the host only (`can_read_values`).
ON_THE_HOST = {'select_masked_patches', '_are_in_unit_range', '_check_range'}


class Waits(TorchDispatchMode):
    """Counts operations that wait for the device, by the function of ours or mmengine's that calls them."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name().split('::')[1].startswith(WAITS):
            frame = sys._getframe(1)
            while frame and not {'beit_mm', 'mmengine'} & set(Path(frame.f_code.co_filename).parts):
                frame = frame.f_back
            self.counts[frame.f_code.co_name if frame else '?'] += 1
        return func(*args, **(kwargs or {}))


class Iterations(Hook):
    """Counts waits in iterations that log nothing."""

    priority = 'VERY_LOW'

    def __init__(self, interval: int):
        self.interval, self.found = interval, Counter()

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        self.waits = Waits()
        self.waits.__enter__()

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self.waits.__exit__(None, None, None)
        # The first iteration creates what later ones have.
        if runner.iter and (runner.iter + 1) % self.interval:
            self.found += self.waits.counts


def test_no_iteration_waits_and_the_log_is_the_stock_one(few_shapes, tmp_path):
    def run(deferred: bool) -> tuple[Counter, dict]:
        torch.manual_seed(0)  # of the tokenizer's weights
        cfg = shrink(load('quickstart/pretrain'), few_shapes, tmp_path / 'work')
        cfg.train_cfg.update(max_iters=8, val_interval=100)
        cfg.default_hooks.logger = dict(type='LoggerHook', interval=4)
        runner = build_runner(cfg)
        if not deferred:
            runner._hooks = [hook for hook in runner.hooks if not isinstance(hook, DeferredLog)]
        iterations = Iterations(4)
        runner.register_hook(iterations)
        runner.train()
        scalars = runner.message_hub.log_scalars
        return iterations.found, {key: buffer.data for key, buffer in scalars.items()}

    (stock, expected), (found, logged) = run(deferred=False), run(deferred=True)
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
    """The loss is overwritten in place, as by CUDA graphs."""
    stock, ours, loss = MessageHub('stock'), MessageHub('ours'), torch.zeros(())
    defer(ours)
    for step in range(3):
        loss.fill_(0.1 * step)
        for hub in (stock, ours):
            hub.update_scalar('train/loss', loss)
            hub.update_scalar('train/loss', 7.0)
            hub.update_scalar('train/count', loss[None], count=2)
            hub.update_scalar('train/lr', 0.5)
        assert ours.get_scalar('train/lr').current() == 0.5 and ours.pending['train/count']
    assert (
        ours.get_scalar('train/count').current() == loss.item() and not ours.pending['train/count']
    )
    found, expected = (hub.state_dict()['log_scalars'] for hub in (ours, stock))
    assert found.keys() == expected.keys()
    for key in expected:
        np.testing.assert_array_equal(found[key].data, expected[key].data)
    with pytest.raises(KeyError, match='train/nothing'):
        ours.get_scalar('train/nothing')
    with pytest.raises(ValueError, match='train/loss has 2 values'):
        ours.update_scalar('train/loss', torch.zeros(2))

"""Toy runs with bad batches: non-finite steps change nothing and are named."""

import math
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn

from beit_mm.checkpoint.files import read_file
from beit_mm.engine.watchdog import Watchdog

pytestmark = pytest.mark.any_stack


class BadGradient(torch.autograd.Function):
    """Identity whose gradient is NaN."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.nan


class Toy(BaseModel):
    """Model with two losses and batch statistics. Samples name their fault."""

    def __init__(self):
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)
        self.register_buffer('mask', torch.tensor([-math.inf, 0.0]))

    def forward(self, inputs, data_samples=None, mode='loss'):
        faults = {sample.fault for sample in data_samples}
        x = torch.stack(list(inputs)) * (math.nan if 'nan' in faults else 1)
        features = self.norm(self.body(x).relu())
        y = self.head(BadGradient.apply(features) if 'gradient' in faults else features)
        extra = features.float().square().mean() * 0.01
        return dict(
            loss_y=(y.float() - 1).square().mean(),
            loss_extra=extra + (math.inf if 'inf' in faults else 0),
        )


class Faulty(torch.utils.data.Dataset):
    def __init__(self, faults: dict[int, str]):
        self.faults = faults

    def __len__(self) -> int:
        return 64

    def __getitem__(self, i: int) -> dict:
        sample = BaseDataElement(metainfo=dict(img_path=f'{i}.jpg'), fault=self.faults.get(i, ''))
        inputs = torch.randn(4, generator=torch.Generator().manual_seed(i))
        return dict(inputs=inputs, data_samples=sample)


class Record(Hook):
    """Record the state of the model after each iteration."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.states = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        state = runner.model.state_dict()
        self.states.append({k: v.clone() for k, v in state.items() if 'num_batches' not in k})

    def changed(self) -> list[bool]:
        """Return whether each iteration, from the second on, changed the model."""
        pairs = zip(self.states, self.states[1:], strict=False)
        return [any(not torch.equal(a[k], b[k]) for k in a) for a, b in pairs]


def run(
    tmp_path,
    faults: dict[int, str],
    hooks: tuple = (),
    patience: int | None = 3,
    iters: int = 10,
    model: nn.Module | None = None,
    **wrapper,
) -> Runner:
    """Train on batches of 4, in order: sample i is in iteration i // 4 + 1.

    Without `patience` there is no watchdog.
    """
    optimizer = dict(type=wrapper.pop('optimizer', 'AdamW'), lr=0.01, **wrapper.pop('options', {}))
    checkpoint = dict(type='CheckpointHook', interval=2, by_epoch=False)
    loader = dict(batch_size=4, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False))
    runner = Runner(
        model or Toy(),
        str(tmp_path),
        train_dataloader=dict(loader, dataset=Faulty(faults)),
        train_cfg=dict(by_epoch=False, max_iters=iters),
        optim_wrapper=dict(optimizer=optimizer, **wrapper),
        # A scheduler binds the wrapper's `step` before the run starts.
        param_scheduler=[dict(type='CosineAnnealingLR', by_epoch=False, T_max=2 * iters)],
        default_hooks=dict(logger=dict(type='LoggerHook', interval=5), checkpoint=checkpoint),
        custom_hooks=[*([Watchdog(patience)] if patience else []), *hooks],
        experiment_name=tmp_path.name,
    )
    runner.train()
    return runner


def log(tmp_path) -> str:
    return next(tmp_path.rglob('*.log')).read_text()


WRAPPERS = {
    'AdamW': {},
    'fused AdamW': dict(options=dict(fused=True)),
    'SGD': dict(optimizer='SGD'),
    'clipped': dict(clip_grad=dict(max_norm=1.0)),
    'clipped by value': dict(
        clip_grad=dict(type='value', clip_value=1.0), options=dict(fused=True)
    ),
    'bfloat16': dict(type='beit_mm.CPUAmpOptimWrapper', options=dict(fused=True)),
}
CAUSES = dict(
    nan='losses loss, loss_y, loss_extra',
    inf='losses loss, loss_extra',
    gradient='gradients of body.weight,',
)


@pytest.mark.parametrize('fault', CAUSES)
@pytest.mark.parametrize('kind', WRAPPERS)
def test_a_nonfinite_step_changes_nothing_and_is_named(kind, fault, tmp_path):
    record = Record()
    ema = dict(type='EMAHook', momentum=0.5, update_buffers=True)
    runner = run(tmp_path, {13: fault}, (record, ema), **WRAPPERS[kind])
    assert record.changed() == [iteration != 4 for iteration in range(2, 11)]
    states = runner.optim_wrapper.optimizer.state.values()
    assert {state['step'].item() for state in states if 'step' in state} in ({9.0}, set())
    for path in tmp_path.glob('iter_*.pth'):
        saved = read_file(path)
        tensors = [*saved['state_dict'].items(), *saved['ema_state_dict'].items()]
        assert all(value.isfinite().all() for key, value in tensors if 'mask' not in key)
    words = log(tmp_path)
    assert f'iteration 4: {CAUSES[fault]}' in words
    assert 'samples: 12.jpg, 13.jpg, 14.jpg, 15.jpg' in words
    if fault == 'gradient':
        assert 'head.weight' not in words.split('gradients of')[-1].splitlines()[0]


class Collapsing(Toy):
    """Model that learns nothing after some iterations: all labels ignored, or one code left."""

    def __init__(self, key: str, after: int):
        super().__init__()
        self.key, self.after = key, after

    def forward(self, inputs, data_samples=None, mode='loss'):
        collapsed = int(data_samples[0].img_path[:-4]) // 4 >= self.after
        losses = super().forward(inputs, data_samples, mode)
        if self.key == 'loss':
            return {name: value * (not collapsed) for name, value in losses.items()}
        return losses | dict(codes_used=torch.tensor(1.0 if collapsed else 2.0))


@pytest.mark.parametrize(('after', 'last'), [(0, 5), (3, 10), (6, 15)])
@pytest.mark.parametrize(
    ('key', 'words'),
    [('loss', 'the loss was exactly 0'), ('codes_used', 'all patches got the same code')],
)
def test_a_run_that_learns_nothing_for_an_interval_is_named_once(key, words, after, last, tmp_path):
    run(tmp_path, {}, iters=15, model=Collapsing(key, after))
    lines = [line for line in log(tmp_path).splitlines() if words in line]
    assert len(lines) == 1 and f'WARNING - iterations {last - 4} … {last}: {words}' in lines[0]


@pytest.mark.parametrize('kind', ['AdamW', 'fused AdamW', 'bfloat16'])
def test_a_run_without_faults_has_the_bits_of_an_unwatched_one(kind, tmp_path):
    records = {3: Record(), None: Record()}
    for patience, record in records.items():
        torch.manual_seed(0)
        run(tmp_path / str(patience), {}, (record,), patience, **WRAPPERS[kind])
    for a, b in zip(records[3].states, records[None].states, strict=True):
        assert all(torch.equal(a[k], b[k]) for k in a)


def test_with_accumulation_the_complete_step_is_skipped_and_all_its_files_are_named(tmp_path):
    record = Record()
    run(tmp_path, {13: 'nan'}, (record,), accumulative_counts=2)
    weights = [state['body.weight'] for state in record.states]
    same = [torch.equal(a, b) for a, b in zip(weights[1::2], weights[3::2], strict=False)]
    assert same == [True, False, False, False]
    assert torch.equal(record.states[3]['norm.running_mean'], record.states[1]['norm.running_mean'])
    words = 'iteration 3 … 4: losses loss, loss_y, loss_extra; samples: 8.jpg, 9.jpg'
    assert words in log(tmp_path)


def test_consecutive_nonfinite_steps_stop_the_run_and_the_last_good_checkpoint_is_named(tmp_path):
    faults = {i: 'nan' for i in (16, 20, 24)}  # iterations 5, 6, 7
    words = r'(?s)iteration 7: .*3 in a row, patience=3: stopped.*iter_8\.pth'
    with pytest.raises(FloatingPointError, match=words) as error:
        run(tmp_path, faults)
    assert 'iteration 5' not in str(error.value)  # logged one interval before
    state = read_file(tmp_path / 'iter_8.pth')['state_dict']
    assert all(value.isfinite().all() for key, value in state.items() if key != 'mask')


@pytest.mark.parametrize(
    ('damaged', 'words'),
    [([8], r'the last good checkpoint is .*iter_6\.pth'), ([2, 4, 6, 8], 'none of the 4 checkp')],
)
def test_a_damaged_checkpoint_is_not_called_good(damaged, words, tmp_path):
    class Damage(Hook):
        priority = 'VERY_LOW'  # after the checkpoint

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter + 1 in damaged:
                path = tmp_path / f'iter_{runner.iter + 1}.pth'
                path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(FloatingPointError, match=words):
        run(tmp_path, {i: 'nan' for i in (16, 20, 24)}, (Damage(),))


def test_fewer_consecutive_nonfinite_steps_do_not_stop_the_run(tmp_path):
    assert run(tmp_path, {i: 'nan' for i in (16, 20, 28, 32)}).iter == 10


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    class Break(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 3:
                with torch.no_grad():
                    runner.model.head.bias.fill_(math.inf)

    words = r'iteration 4: no checkpoint is written.*: head\.bias; .*iter_2\.pth'
    with pytest.raises(FloatingPointError, match=words):
        run(tmp_path, {}, (Break(),))
    assert not (tmp_path / 'iter_4.pth').exists()


def test_an_epoch_without_a_batch_is_an_error():
    with pytest.raises(ValueError, match='train_dataloader has no batch'):
        Watchdog().before_train(SimpleNamespace(max_iters=0))

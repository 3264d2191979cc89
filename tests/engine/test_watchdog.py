"""Runs on toys with bad batches: what is not finite changes nothing, is named, and in a row stops the run."""

import math
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from beit_mm.checkpoint.files import read_file
from beit_mm.engine.nonfinite_steps import skip_nonfinite_steps
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
    """Two losses, batch statistics; samples say themselves what is wrong with them."""

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
        return dict(
            inputs=torch.randn(4, generator=torch.Generator().manual_seed(i)), data_samples=sample
        )


class Record(Hook):
    """State of the model after each iteration."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.states = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.states.append(
            {k: v.clone() for k, v in runner.model.state_dict().items() if 'num_batches' not in k}
        )

    def moved(self) -> list[bool]:
        """Of each iteration but the first: did anything change?"""
        pairs = zip(self.states, self.states[1:], strict=False)
        return [any(not torch.equal(a[k], b[k]) for k in a) for a, b in pairs]


def run(
    tmp_path,
    faults: dict[int, str],
    hooks: tuple = (),
    patience: int | None = 3,
    iters: int = 10,
    **wrapper,
) -> Runner:
    """Batches of 4, in order: sample i is in iteration i // 4 + 1. `patience` None: unwatched."""
    optimizer = dict(type=wrapper.pop('optimizer', 'AdamW'), lr=0.01, **wrapper.pop('options', {}))
    runner = Runner(
        wrapper.pop('model', None) or Toy(),
        str(tmp_path),
        train_dataloader=dict(
            dataset=Faulty(faults), batch_size=4, sampler=dict(type='DefaultSampler', shuffle=False), num_workers=0
        ),
        train_cfg=dict(by_epoch=False, max_iters=iters),
        optim_wrapper=dict(optimizer=optimizer, **wrapper),
        # It binds the wrapper's `step` before the run begins.
        param_scheduler=[dict(type='CosineAnnealingLR', by_epoch=False, T_max=2 * iters)],
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=5),
            checkpoint=dict(type='CheckpointHook', interval=2, by_epoch=False)),
        custom_hooks=[*([Watchdog(patience)] if patience else []), *hooks],
        experiment_name=tmp_path.name,
    )  # fmt: skip
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


@pytest.mark.parametrize('fault', ['nan', 'inf', 'gradient'])
@pytest.mark.parametrize('kind', WRAPPERS)
def test_an_update_that_is_not_finite_changes_nothing_and_is_named(kind, fault, tmp_path):
    record = Record()
    ema = dict(type='EMAHook', momentum=0.5, update_buffers=True)
    runner = run(tmp_path, {13: fault}, (record, ema), **WRAPPERS[kind])
    assert record.moved() == [iteration != 4 for iteration in range(2, 11)]
    assert 'the loss was exactly 0' not in log(tmp_path)
    steps = {
        state['step'].item()
        for state in runner.optim_wrapper.optimizer.state.values()
        if 'step' in state
    }
    assert steps in ({9.0}, set())
    for path in tmp_path.glob('iter_*.pth'):
        saved = read_file(path)
        tensors = [*saved['state_dict'].items(), *saved['ema_state_dict'].items()]
        assert all(value.isfinite().all() for key, value in tensors if 'mask' not in key)
    what = dict(
        nan='losses loss, loss_y, loss_extra',
        inf='losses loss, loss_extra',
        gradient='gradients of body.weight,',
    )
    words = log(tmp_path)
    assert (
        f'iteration 4: {what[fault]}' in words
        and 'samples: 12.jpg, 13.jpg, 14.jpg, 15.jpg' in words
    )
    assert (
        'head.weight' not in words.split('gradients of')[-1].splitlines()[0] or fault != 'gradient'
    )


class Dead(Toy):
    """A model that learns nothing after a number of iterations: its labels are all ignored, or it has one code left."""

    def forward(self, inputs, data_samples=None, mode='loss'):
        dead = int(data_samples[0].img_path[:-4]) // 4 >= self.after
        losses = super().forward(inputs, data_samples, mode)
        if self.name == 'loss':
            return {name: value * (not dead) for name, value in losses.items()}
        return losses | dict(codes_used=torch.tensor(1.0 if dead else 2.0))


@pytest.mark.parametrize('after', [0, 3, 6])
@pytest.mark.parametrize(
    ('name', 'words'),
    [('loss', 'the loss was exactly 0'), ('codes_used', 'all patches got the same code')],
)
def test_what_learns_nothing_for_an_interval_is_named_once(name, words, after, tmp_path):
    model = Dead()
    model.name, model.after = name, after
    run(tmp_path, {}, iters=15, model=model)
    said = [line for line in log(tmp_path).splitlines() if words in line]
    last = {0: 5, 3: 10, 6: 15}[after]
    assert len(said) == 1 and f'WARNING - iterations {last - 4} … {last}: {words}' in said[0]


@pytest.mark.parametrize('kind', ['AdamW', 'fused AdamW', 'bfloat16'])
def test_a_run_without_faults_has_the_bits_of_an_unwatched_one(kind, tmp_path):
    watched, bare = Record(), Record()
    for name, record in dict(watched=watched, bare=bare).items():
        torch.manual_seed(0)
        run(
            tmp_path / name,
            {},
            (record,),
            patience=3 if record is watched else None,
            **WRAPPERS[kind],
        )
    assert all(
        torch.equal(a[k], b[k]) for a, b in zip(watched.states, bare.states, strict=True) for k in a
    )


class Reads(TorchDispatchMode):
    """Counts what makes the host wait for the device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.is_nonzero.default,
        )
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize('fused', [True, False])
def test_a_fused_optimizer_leaves_out_without_a_read_of_the_device(fused):
    model = nn.Linear(3, 1)
    wrapper = OptimWrapper(torch.optim.AdamW(model.parameters(), fused=fused))
    updates = skip_nonfinite_steps(wrapper, model)
    with Reads() as reads:
        for value in (1.0, math.nan, 1.0):
            with wrapper.optim_context(model):
                loss = model(torch.full((2, 3), value)).sum()
            wrapper.update_params(loss)
    assert (reads.count == 0) == fused and [bool(u.skipped) for u in updates] == [
        False,
        True,
        False,
    ]


def test_what_the_loss_scaler_leaves_out_to_find_its_scale_does_not_count():
    model = nn.Linear(3, 1)
    wrapper = AmpOptimWrapper.__new__(AmpOptimWrapper)  # its __init__ asks for a GPU
    OptimWrapper.__init__(wrapper, torch.optim.SGD(model.parameters(), lr=0.0))
    wrapper.loss_scaler, wrapper._scale_update_param = (
        torch.amp.GradScaler('cpu', init_scale=8.0),
        None,
    )
    updates = skip_nonfinite_steps(wrapper, model)
    for gradient, scale in (
        (1e38, 8.0),
        (1e38, 4.0),
        (math.inf, 2.0),
        (1e38, 1.0),
        (math.inf, 1.0),
    ):
        assert wrapper.loss_scaler.get_scale() == scale
        loss = (
            (model.weight * gradient).sum()
            if gradient < math.inf
            else model.weight.sum() + gradient
        )
        wrapper.update_params(loss)
    for gradient in (1e38, math.nan):
        wrapper.loss_scaler.update(1.0)
        wrapper.update_params(
            BadGradient.apply(model.weight).sum() if math.isnan(gradient) else model.weight.sum()
        )
    assert [bool(u.skipped) for u in updates] == [True, True, True, False, True, False, True]
    assert [bool(u.counts) for u in updates] == [False, False, True, False, True, False, True]


def test_under_accumulation_the_whole_update_is_left_out_with_all_its_files(tmp_path):
    record = Record()
    run(tmp_path, {13: 'nan'}, (record,), accumulative_counts=2)
    weights = [state['body.weight'] for state in record.states]
    assert [torch.equal(a, b) for a, b in zip(weights[1::2], weights[3::2], strict=False)] == [
        True,
        False,
        False,
        False,
    ]
    assert torch.equal(record.states[3]['norm.running_mean'], record.states[1]['norm.running_mean'])
    assert 'iteration 3 … 4: losses loss, loss_y, loss_extra; samples: 8.jpg, 9.jpg' in log(
        tmp_path
    )


def test_so_many_in_a_row_stop_the_run_which_names_the_last_good_checkpoint(tmp_path):
    stopped = {i: 'nan' for i in (16, 20, 24)}  # iterations 5, 6, 7
    with pytest.raises(
        FloatingPointError, match=r'(?s)iteration 7: .*3 in a row, patience=3: stopped.*iter_8\.pth'
    ) as end:
        run(tmp_path, stopped)
    assert 'iteration 5' not in str(end.value)  # that was said at the interval before
    assert all(
        v.isfinite().all()
        for k, v in read_file(tmp_path / 'iter_8.pth')['state_dict'].items()
        if k != 'mask'
    )


def test_fewer_in_a_row_do_not_stop_it(tmp_path):
    assert run(tmp_path, {i: 'nan' for i in (16, 20, 28, 32)}).iter == 10


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    class Break(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 3:
                with torch.no_grad():
                    runner.model.head.bias.fill_(math.inf)

    with pytest.raises(
        FloatingPointError,
        match=r'iteration 4: no checkpoint is written.*: head\.bias; .*iter_2\.pth',
    ):
        run(tmp_path, {}, (Break(),))
    assert not (tmp_path / 'iter_4.pth').exists()


def test_an_epoch_without_a_batch_is_an_error():
    with pytest.raises(ValueError, match='train_dataloader has no batch'):
        Watchdog().before_train(SimpleNamespace(max_iters=0))


@pytest.mark.parametrize('name', ['patience', 'interval', 'checksum_interval'])
def test_nothing_less_than_one_is_taken(name):
    with pytest.raises(ValueError, match=rf'{name}=0: expected an integer, at least 1'):
        Watchdog(**{name: 0})

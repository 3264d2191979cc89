"""A run that was interrupted and resumed is, bit for bit, the run that was not interrupted."""

import random
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from small import backbone, find_dataset, load, read_scalars, shrink
from trials import toy
from trials.kill import differences

from beit_mm.checkpoint.files import read_file
from beit_mm.data.seeded import seeded
from beit_mm.engine import ExactResume, KeyedRandomness
from beit_mm.engine.launch import build_runner
from beit_mm.engine.process_group import leave
from beit_mm.registry import HOOKS

TASKS = ('tokenizer', 'pretrain', 'classification', 'segmentation')
IMAGES, BATCH = 12, 2
ITERATIONS, SAVED_AT = 12, 7  # two epochs of six batches; saved after one batch of the second


@HOOKS.register_module()
class Witness(Hook):
    """Write the seed and batch of each iteration to `seen_RANK.pth`."""

    def __init__(self):
        self.seen = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.seen.append((torch.initial_seed(), data_batch['inputs']))

    def after_train(self, runner):
        torch.save(self.seen, Path(runner.work_dir, f'seen_{get_rank()}.pth'))


def config(
    task: str,
    data: Path,
    folder: Path,
    loop: str = 'iter',
    workers: int = 0,
    accumulate: int = 1,
    amp: bool = False,
    ema: bool = True,
    batch: int = BATCH,
) -> Config:
    """Return a small quickstart config with every kind of randomness."""
    torch.manual_seed(0)  # for the tokenizer of pre-training
    cfg = shrink(load(f'quickstart/{task}'), data, folder)
    find_dataset(cfg.train_dataloader).indices = IMAGES
    cfg.train_dataloader.update(
        batch_size=batch, num_workers=workers, persistent_workers=workers > 0
    )
    if loop == 'epoch':
        cfg.train_dataloader.sampler.infinite = False
        cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=ITERATIONS * BATCH // IMAGES)
    else:
        cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=ITERATIONS, val_interval=5)
    cfg.log_processor = dict(by_epoch=loop == 'epoch')
    cfg.default_hooks.logger = dict(type='LoggerHook', interval=1)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=SAVED_AT)
    cfg.optim_wrapper.accumulative_counts = accumulate
    if amp:
        cfg.optim_wrapper.type = 'beit_mm.CPUAmpOptimWrapper'  # bfloat16 also where it is slow
    if ema:
        ema_hook = dict(type='mmengine.EMAHook', momentum=0.1)
        cfg.custom_hooks = [*cfg.get('custom_hooks', []), ema_hook]
    if task == 'tokenizer':
        cfg.custom_hooks[0].num_images = 4
    else:
        backbone(cfg).drop_path_rate = 0.5
    if task == 'classification':
        augments = [dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]
        cfg.model.train_cfg = dict(augments=augments)
    return cfg


def outcome(folder: Path, after: int = 0) -> dict:
    """Return the last checkpoint of a run and what it logged `after` an iteration."""
    last = read_file(folder / f'iter_{ITERATIONS}.pth')
    kept = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers', 'gradients')
    logged, clocks = {}, ('time', 'data_time', 'memory')
    for line in read_scalars(folder):
        if 'loss' in line and line['step'] > after:
            logged[line['step']] = {k: v for k, v in line.items() if k not in clocks}
    return {key: last[key] for key in kept if key in last} | dict(logged=logged)


def train(cfg: Config) -> Path:
    build_runner(cfg).train()
    leave()
    return Path(cfg.work_dir)


def resumed(cfg: Config, source: Path) -> Path:
    """Continue from what another run wrote at SAVED_AT, with other states of the generators."""
    torch.manual_seed(999), np.random.seed(999)
    cfg.resume, cfg.load_from = True, str(source / f'iter_{SAVED_AT}.pth')
    return train(cfg)


# -- one process

SHORT = [
    ('tokenizer', dict(loop='iter', accumulate=4)),
    ('pretrain', dict(loop='epoch', accumulate=4, amp=True)),
    ('classification', dict(loop='epoch', workers=2)),
    ('segmentation', dict(loop='iter', accumulate=4)),
]
LONG = [
    (task, dict(loop=loop, workers=workers, accumulate=accumulate, amp=amp, ema=not amp))
    for task, loop, workers, accumulate, amp in product(
        TASKS, ('iter', 'epoch'), (0, 2), (1, 4), (False, True)
    )
]


def name(setup: object) -> str:
    return '-'.join(f'{k}_{v}' for k, v in setup.items()) if isinstance(setup, dict) else str(setup)


@pytest.mark.parametrize(
    ('task', 'setup'),
    [*SHORT, *(pytest.param(*one, marks=pytest.mark.long) for one in LONG)],
    ids=name,
)
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(task, setup, few_shapes, tmp_path):
    plain = train(config(task, few_shapes, tmp_path / 'plain', **setup))
    again = resumed(config(task, few_shapes, tmp_path / 'again', **setup), plain)
    expected = outcome(plain, after=SAVED_AT)
    assert expected['logged'].keys() == set(range(SAVED_AT + 1, ITERATIONS + 1))
    assert differences(expected, outcome(again)) == []
    broken = read_file(plain / f'iter_{SAVED_AT}.pth')
    assert ('gradients' in broken) is (setup.get('accumulate', 1) > 1)


def test_another_tokenizer_is_an_error_when_resuming_but_not_when_starting_from_weights(
    few_shapes, tmp_path
):
    plain = train(config('pretrain', few_shapes, tmp_path / 'plain'))
    cfg = config('pretrain', few_shapes, tmp_path / 'again')
    state = read_file(cfg.model.target.checkpoint)['state_dict']
    other = {key: value + 0.1 for key, value in state.items()}
    torch.save(dict(state_dict=other), cfg.model.target.checkpoint)
    message = (
        r'the tokens of another tokenizer .*\. Set model\.target\.checkpoint, or the token cache'
    )
    with pytest.raises(ValueError, match=message):
        resumed(cfg, plain)
    cfg.resume, cfg.experiment_name = False, 'begun'
    begun = outcome(train(cfg))['state_dict']['target_fingerprint']
    assert begun and begun != outcome(plain)['state_dict']['target_fingerprint']


def test_one_seed_determines_weights_order_and_crops_and_is_kept_when_resuming(
    few_shapes, tmp_path
):
    cfg = config('pretrain', few_shapes, tmp_path / 'plain')
    cfg.randomness = dict(seed=5)
    plain = train(cfg)
    meta = read_file(plain / f'iter_{SAVED_AT}.pth')['meta']
    assert meta['seed'] == meta['sampler_seed'] == meta['data_seed'] == 5
    message = r'drew its crops with seed 5, this config has seed 0: set randomness\.seed'
    with pytest.raises(ValueError, match=message):
        resumed(config('pretrain', few_shapes, tmp_path / 'again'), plain)


# -- several processes


def on_two_ranks(cfg: Config) -> Path:
    cfg.custom_hooks = [*cfg.get('custom_hooks', []), dict(type='beit_mm.Witness')]
    cfg.launcher, folder = 'pytorch', Path(cfg.work_dir)
    folder.mkdir(exist_ok=True)
    toy.run_ranks(lambda rank: train(cfg), 2, folder)
    return folder


def seen(folder: Path, ranks: int) -> list[list[tuple]]:
    """Return the seeds and batches of all ranks per iteration."""
    files = [torch.load(folder / f'seen_{rank}.pth') for rank in range(ranks)]
    return list(zip(*files, strict=True))


RANKS = [
    ('pretrain', dict(loop='epoch', accumulate=4)),
    *(
        pytest.param(
            task, dict(loop=loop, accumulate=4, amp=amp, workers=workers), marks=pytest.mark.long
        )
        for task, (loop, amp, workers) in product(TASKS, [('iter', False, 2), ('epoch', True, 0)])
    ),
]


@pytest.mark.parametrize(('task', 'setup'), RANKS, ids=name)
def test_two_ranks_see_what_one_sees_and_resume_exactly(task, setup, few_shapes, tmp_path):
    plain = on_two_ranks(config(task, few_shapes, tmp_path / 'plain', batch=BATCH // 2, **setup))
    cfg = config(task, few_shapes, tmp_path / 'again', batch=BATCH // 2, **setup)
    cfg.resume, cfg.load_from = True, str(plain / f'iter_{SAVED_AT}.pth')
    again = on_two_ranks(cfg)
    assert differences(outcome(plain, after=SAVED_AT), outcome(again)) == []

    cfg = config(task, few_shapes, tmp_path / 'alone', **setup)
    cfg.custom_hooks.append(dict(type='beit_mm.Witness'))
    alone = seen(train(cfg), 1)
    assert len(alone) == ITERATIONS
    for ((seed, both),), (first, second) in zip(alone, seen(plain, 2), strict=True):
        assert differences(both, joined(first[1], second[1])) == []
        assert seed == first[0] != second[0]


def joined(one: object, other: object) -> object:
    """Return the global batch of two ranks' batches."""
    if isinstance(one, dict):
        return {key: joined(one[key], other[key]) for key in one}
    return torch.cat([one, other]) if isinstance(one, torch.Tensor) else [*one, *other]


# -- randomness of an iteration


def draws(seed: int, iteration: int) -> tuple[float, ...]:
    KeyedRandomness().before_train_iter(SimpleNamespace(seed=seed, iter=iteration), 0)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    numbers = torch.rand(()), torch.rand((), device=device)
    return random.random(), float(np.random.rand()), *(number.item() for number in numbers)


def test_draws_depend_on_seed_and_iteration_only_and_differ_between_iterations_and_from_samples():
    first = {key: draws(*key) for key in np.ndindex(3, 50)}
    torch.manual_seed(5)
    assert {key: draws(*key) for key in reversed(first)} == first
    drawn = {value for values in first.values() for value in values}
    assert len(drawn) == 3 * 50 * 4
    for key in np.ndindex(3, 3, 50):
        with seeded(*key):
            assert torch.rand(()).item() not in drawn


def test_every_run_has_each_hook_once_and_keyed_randomness_comes_first(tmp_path):
    cfg = Config(dict(work_dir=str(tmp_path), model=torch.nn.Linear(1, 1)))
    for hooks in (None, [dict(type='beit_mm.KeyedRandomness')]):
        cfg.custom_hooks = hooks
        cfg.experiment_name = f'hooks_{hooks is None}'
        kinds = [type(hook) for hook in build_runner(cfg).hooks]
        assert kinds.count(KeyedRandomness) == kinds.count(ExactResume) == 1
        assert kinds[0] is KeyedRandomness

"""A run that was broken off and resumed is, bit for bit, the run that went through."""

import json
import os
import signal
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from shapes import draw as shapes
from small import backbone, load, nodes, shrink
from trials import toy

from beit_mm.checkpoint.files import read_file
from beit_mm.engine import KeyedRandomness
from beit_mm.engine.launch import build_runner
from beit_mm.engine.process_group import leave
from beit_mm.registry import HOOKS

pytestmark = pytest.mark.usefixtures('unformatted')
TASKS = ('tokenizer', 'pretrain', 'classification', 'segmentation')
IMAGES, BATCH, TOTAL, BROKEN_AT = (
    12,
    2,
    12,
    7,
)  # two epochs of six batches; broken off one batch into the second


@HOOKS.register_module()
class Witness(Hook):
    """Writes what each rank saw and by which seed its model drew, `work_dir/seen_RANK.pth`; kills its process if told to."""

    def __init__(self, kill_at: int | None = None):
        self.kill_at, self.seen = kill_at, []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.seen.append((torch.initial_seed(), data_batch['inputs']))
        if runner.iter == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def after_train(self, runner):
        torch.save(self.seen, Path(runner.work_dir, f'seen_{get_rank()}.pth'))


@pytest.fixture(scope='session')
def data(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp('resume') / 'shapes'
    shapes.write(
        out,
        train=IMAGES,
        val=4,
        segmentation_train=IMAGES,
        segmentation_val=4,
        labels=(IMAGES,),
        jobs=1,
    )
    return out


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
    """The quickstart's config of a task, small, with all that is random in the model, saved at BROKEN_AT and at its end."""
    torch.manual_seed(0)  # of the tokenizer that pre-training reads
    cfg = shrink(load(f'quickstart/{task}'), data, folder)
    next(
        node for node in nodes(cfg.train_dataloader.dataset) if 'pipeline' in node
    ).indices = IMAGES
    cfg.train_dataloader.update(
        batch_size=batch, num_workers=workers, persistent_workers=workers > 0
    )
    if loop == 'epoch':
        cfg.train_dataloader.sampler.infinite = False
        cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=TOTAL * BATCH // IMAGES)
    else:
        cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=TOTAL, val_interval=5)
    cfg.log_processor = dict(by_epoch=loop == 'epoch')
    cfg.default_hooks.logger = dict(type='LoggerHook', interval=1)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=BROKEN_AT)
    cfg.optim_wrapper.accumulative_counts = accumulate
    if amp:
        cfg.optim_wrapper.type = 'beit_mm.CPUAmpOptimWrapper'  # bfloat16 also where it is slow
    if ema:
        cfg.custom_hooks = [
            *cfg.get('custom_hooks', []),
            dict(type='mmengine.EMAHook', momentum=0.1),
        ]
    if task == 'tokenizer':
        cfg.custom_hooks[0].num_images = 4
    else:
        backbone(cfg).drop_path_rate = 0.5
    if task == 'classification':
        cfg.model.train_cfg = dict(
            augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]
        )
    return cfg


def outcome(folder: Path) -> dict:
    """All that a run leaves: its last checkpoint, and what it logged of each iteration."""
    last = read_file(folder / f'iter_{TOTAL}.pth')
    kept = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers', 'gradients')
    lines = [
        json.loads(line)
        for path in folder.rglob('scalars.json')
        for line in path.read_text().splitlines()
    ]
    clocks = ('time', 'data_time', 'memory')
    logged = {
        line['step']: {k: v for k, v in line.items() if k not in clocks}
        for line in lines
        if 'loss' in line
    }
    return {key: last[key] for key in kept if key in last} | dict(logged=logged)


def differences(one: object, other: object, place: str = '') -> list[str]:
    """Where two nested outcomes differ in any bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [key for key in {**one, **other} if place != '/logged' or key > BROKEN_AT]
        return [
            d for key in keys for d in differences(one.get(key), other.get(key), f'{place}/{key}')
        ]
    if (
        isinstance(one, (list, tuple))
        and isinstance(other, (list, tuple))
        and len(one) == len(other)
    ):
        return [
            d
            for i, pair in enumerate(zip(one, other, strict=True))
            for d in differences(*pair, f'{place}/{i}')
        ]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [place]
    return [] if one == other else [place]


def through(cfg: Config) -> Path:
    build_runner(cfg).train()
    leave()
    return Path(cfg.work_dir)


def resumed(cfg: Config, source: Path) -> Path:
    """Goes on with what another run wrote at BROKEN_AT, whatever the generators' states are."""
    torch.manual_seed(999), np.random.seed(999)
    cfg.resume, cfg.load_from = True, str(source / f'iter_{BROKEN_AT}.pth')
    return through(cfg)


# -- one process -------------------------------------------------------------------------------------------------------

SOME = [
    ('tokenizer', dict(loop='iter', accumulate=4)),
    ('pretrain', dict(loop='epoch', accumulate=4, amp=True)),
    ('classification', dict(loop='epoch', workers=2)),
    ('segmentation', dict(loop='iter', accumulate=4)),
]
ALL = [
    (task, dict(loop=loop, workers=workers, accumulate=accumulate, amp=amp, ema=not amp))
    for task, loop, workers, accumulate, amp in product(
        TASKS, ('iter', 'epoch'), (0, 2), (1, 4), (False, True)
    )
]


def name(setup: object) -> str:
    return '-'.join(f'{k}_{v}' for k, v in setup.items()) if isinstance(setup, dict) else str(setup)


@pytest.mark.parametrize(
    ('task', 'setup'),
    [*SOME, *(pytest.param(*one, marks=pytest.mark.long) for one in ALL)],
    ids=name,
)
def test_resumed_is_as_if_it_had_gone_through(task, setup, data, tmp_path):
    whole = through(config(task, data, tmp_path / 'whole', **setup))
    again = resumed(config(task, data, tmp_path / 'again', **setup), whole)
    assert outcome(whole)['logged'].keys() == set(range(1, TOTAL + 1))
    assert outcome(again)['logged'].keys() == set(range(BROKEN_AT + 1, TOTAL + 1))
    assert differences(outcome(whole), outcome(again)) == []
    broken = read_file(whole / f'iter_{BROKEN_AT}.pth')
    assert ('gradients' in broken) is (setup.get('accumulate', 1) > 1)


@pytest.mark.long
def test_without_keyed_randomness_it_would_not_be(data, tmp_path):
    """What the tests above are able to see."""
    whole = through(config('classification', data, tmp_path / 'whole'))
    cfg = config('classification', data, tmp_path / 'again')
    cfg.resume, cfg.load_from = True, str(whole / f'iter_{BROKEN_AT}.pth')
    runner = build_runner(cfg)
    runner._hooks = [hook for hook in runner.hooks if not isinstance(hook, KeyedRandomness)]
    runner.train()
    assert any(
        '/logged' in place for place in differences(outcome(whole), outcome(tmp_path / 'again'))
    )


def test_with_another_tokenizer_a_run_does_not_go_on_but_may_begin_from_its_weights(data, tmp_path):
    whole = through(config('pretrain', data, tmp_path / 'whole'))
    cfg = config('pretrain', data, tmp_path / 'again')
    state = read_file(cfg.model.target.checkpoint)['state_dict']
    torch.save(
        dict(state_dict={key: value + 0.1 for key, value in state.items()}),
        cfg.model.target.checkpoint,
    )
    with pytest.raises(
        ValueError,
        match=r'learned the tokens of another tokenizer .*\. Set model\.target\.checkpoint, or the token cache',
    ):
        resumed(cfg, whole)
    cfg.resume, cfg.experiment_name = False, 'begun'
    begun = outcome(through(cfg))['state_dict']['target_fingerprint']
    assert begun and begun != outcome(whole)['state_dict']['target_fingerprint']


def test_a_run_has_one_seed_for_weights_order_and_draws_and_keeps_it_when_it_is_resumed(
    data, tmp_path
):
    cfg = config('pretrain', data, tmp_path / 'whole')
    cfg.randomness = dict(seed=5)
    whole = through(cfg)
    meta = read_file(whole / f'iter_{BROKEN_AT}.pth')['meta']
    assert meta['seed'] == meta['sampler_seed'] == meta['data_seed'] == 5
    with pytest.raises(
        ValueError,
        match=r'drew its crops with seed 5, this config has seed 0: set randomness\.seed',
    ):
        resumed(config('pretrain', data, tmp_path / 'again'), whole)


# -- processes of their own ----------------------------------------------------------------------------------------------


def in_processes(cfg: Config, ranks: int, kill_at: int | None = None) -> Path:
    """Until the end, or until each is killed."""
    cfg.custom_hooks = [*cfg.get('custom_hooks', []), dict(type='beit_mm.Witness', kill_at=kill_at)]
    log, places = Path(cfg.work_dir).with_suffix('.log'), [{}]
    if ranks > 1:
        cfg.launcher, port = 'pytorch', toy.free_port()
        places = [dict(rank=rank, ranks=ranks, port=port) for rank in range(ranks)]
    processes = [toy.start(through, cfg, log=log, **place) for place in places]
    for process in processes:
        process.join()
    codes = {process.exitcode for process in processes}
    assert codes == {0 if kill_at is None else -signal.SIGKILL}, log.read_text()[-4000:]
    return Path(cfg.work_dir)


def seen(folder: Path, ranks: int) -> list[list[tuple]]:
    """For each iteration what the ranks saw, one after the other."""
    return list(
        zip(*(torch.load(folder / f'seen_{rank}.pth') for rank in range(ranks)), strict=True)
    )


def test_killed_and_resumed_is_as_if_it_had_gone_through(data, tmp_path):
    setup = dict(loop='epoch', accumulate=4)
    whole = through(config('pretrain', data, tmp_path / 'whole', **setup))
    folder = in_processes(
        config('pretrain', data, tmp_path / 'again', **setup), 1, kill_at=BROKEN_AT + 2
    )
    assert not (folder / f'iter_{TOTAL}.pth').exists()
    cfg = config('pretrain', data, folder, **setup)
    cfg.resume = True
    assert differences(outcome(whole), outcome(through(cfg))) == []


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
def test_two_ranks_see_what_one_sees_and_resumed_are_as_if_they_had_gone_through(
    task, setup, data, tmp_path
):
    whole = in_processes(config(task, data, tmp_path / 'whole', batch=BATCH // 2, **setup), 2)
    cfg = config(task, data, tmp_path / 'again', batch=BATCH // 2, **setup)
    cfg.resume, cfg.load_from = True, str(whole / f'iter_{BROKEN_AT}.pth')
    again = in_processes(cfg, 2)
    assert differences(outcome(whole), outcome(again)) == []

    cfg = config(task, data, tmp_path / 'alone', **setup)
    cfg.custom_hooks.append(dict(type='beit_mm.Witness'))
    alone = seen(through(cfg), 1)
    assert len(alone) == TOTAL
    for ((seed, both),), ((first_seed, first), (second_seed, second)) in zip(
        alone, seen(whole, 2), strict=True
    ):
        assert differences(both, joined(first, second)) == []
        assert seed == first_seed != second_seed


def joined(one: object, other: object) -> object:
    """The batch of two ranks' batches."""
    if isinstance(one, dict):
        return {key: joined(one[key], other[key]) for key in one}
    return torch.cat([one, other]) if isinstance(one, torch.Tensor) else [*one, *other]

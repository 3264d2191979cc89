"""A run that is told to stop saves and exits with its code, on one process and on more; once more ends it at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from trials import kill, signals, toy
from trials.ranks import last, until

from beit_mm.checkpoint.files import read_file
from beit_mm.engine import signals as engine_signals
from beit_mm.registry import HOOKS

FOR_EVER = signals.FOR_EVER
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize('ranks', [1, 2])
def test_a_signal_at_a_random_moment_costs_no_iteration_and_the_run_goes_on_to_the_same_end(
    tmp_path, ranks
):
    count = signals.signals(3, seed=3, folder=tmp_path, ranks=ranks)
    bad = {name: count[name] for name in signals.WRONG}
    assert not any(bad.values()), (count, (tmp_path / 'log').read_text()[-3000:])


@pytest.mark.long
@pytest.mark.parametrize('ranks', [1, 2])
def test_twenty_signals(tmp_path, ranks):
    count = signals.signals(20, seed=0, folder=tmp_path, ranks=ranks)
    assert not any(count[name] for name in signals.WRONG), (
        count,
        (tmp_path / 'log').read_text()[-3000:],
    )


@pytest.mark.parametrize(
    ('same', 'saved'), [(3600, True), (-1, False)]
)  # seconds; the terminal's and torchrun's are one
def test_a_second_signal_ends_a_run_at_once_and_one_that_is_the_same_does_not(
    tmp_path, monkeypatch, same, saved
):
    monkeypatch.setattr(engine_signals, '_SAME_SIGNAL_SECONDS', same)

    def told_twice(done: int) -> None:
        if done == 3:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0 if saved else 3600)

    process = toy.start(
        toy.train, toy.config(tmp_path / 'a', interval=100), told_twice, log=tmp_path / 'log'
    )
    process.join()
    assert process.exitcode == 130 and (tmp_path / 'a/iter_3.pth').exists() is saved, (
        tmp_path / 'log'
    ).read_text()


def test_a_second_signal_ends_a_rank_that_waits_in_a_collective(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_signals, '_SAME_SIGNAL_SECONDS', -1)
    port, log, here = toy.free_port(), tmp_path / 'log', tmp_path / 'here'

    def hang(done: int) -> None:
        if done == 3 and os.environ['RANK'] == '1':
            here.touch()
            time.sleep(3600)

    cfg = toy.config(tmp_path / 'a', launcher='pytorch')
    both = [
        toy.start(toy.train, cfg, hang, log=log, rank=rank, ranks=2, port=port) for rank in range(2)
    ]
    try:
        assert until(here.exists), log.read_text()
        time.sleep(1)  # the other comes to its collective, whose own timeout is half an hour
        os.kill(both[0].pid, signal.SIGTERM)
        assert until(lambda: 'stopping after' in log.read_text()), log.read_text()
        os.kill(both[0].pid, signal.SIGTERM)
        both[0].join(FOR_EVER)
        assert both[0].exitcode == 143, log.read_text()
    finally:
        for process in both:
            process.kill()


def test_told_while_it_validates_an_average_the_model_itself_is_saved(tmp_path):
    class Told(EMAHook):
        def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
            if runner.iter == 4 and batch_idx == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    HOOKS.register_module(name='Told', module=Told, force=True)
    for hook, name in (('Told', 'told'), ('EMAHook', 'whole')):
        cfg = toy.config(tmp_path / name, custom_hooks=[dict(type=hook)])
        process = toy.start(toy.train, cfg, log=tmp_path / 'log')
        process.join()
        assert process.exitcode == (143 if name == 'told' else 0), (tmp_path / 'log').read_text()[
            -2000:
        ]
    process = toy.start(
        toy.train,
        toy.config(tmp_path / 'told', custom_hooks=[dict(type='EMAHook')]),
        log=tmp_path / 'log',
    )
    process.join()
    assert process.exitcode == 0, (tmp_path / 'log').read_text()[-2000:]
    averages = [
        read_file(tmp_path / name / 'iter_8.pth')['ema_state_dict'] for name in ('told', 'whole')
    ]
    assert kill.same(*averages) and kill.same(
        kill.result(tmp_path / 'told'), kill.result(tmp_path / 'whole')
    )


def test_one_of_two_ranks_is_told_while_they_validate(tmp_path):
    class ToldOne(Hook):
        def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
            if runner.iter == 10 and batch_idx == 0 and os.environ['RANK'] == '1':
                os.kill(os.getpid(), signal.SIGTERM)

    HOOKS.register_module(name='ToldOne', module=ToldOne, force=True)
    told = [dict(type='ToldOne')]
    for name, hooks, code in (('told', told, 143), ('told', [], 0), ('whole', [], 0)):
        run = signals.Run(tmp_path / name, tmp_path / 'log', ranks=2, iters=20, custom_hooks=hooks)
        assert run.end()[0] == [code, code], (tmp_path / 'log').read_text()[-3000:]
        if code:
            assert last(tmp_path / name) == 10
    assert kill.same(kill.result(tmp_path / 'told'), kill.result(tmp_path / 'whole'))


def test_between_epochs_ends_what_is_saved_is_named_by_its_iteration(tmp_path):
    def told(done: int) -> None:
        if done == 6:
            os.kill(os.getpid(), signal.SIGUSR1)

    process = toy.start(
        toy.train, toy.config(tmp_path / 'a', iters=12, epochs=True), told, log=tmp_path / 'log'
    )
    process.join()
    assert process.exitcode == 138, (tmp_path / 'log').read_text()[-2000:]
    meta = torch.load(tmp_path / 'a/iter_6.pth', weights_only=True)['meta']
    assert (meta['epoch'], meta['iter']) == (1, 6) and not (tmp_path / 'a/epoch_1.pth').exists()


@pytest.mark.any_stack
@pytest.mark.parametrize(
    'number',
    [
        *(pytest.param(n, marks=pytest.mark.long) for n in (signal.SIGTERM, signal.SIGINT)),
        signal.SIGUSR1,
    ],
)
def test_torchrun_passes_a_signal_on_and_waits_for_the_checkpoint(tmp_path, number):
    work, config = tmp_path / 'work', tmp_path / 'toy.py'
    cfg = toy.config(work, iters=100_000, interval=100_000, val=100_000)
    cfg.custom_imports = dict(imports=['trials.toy'])
    cfg.resume = False
    config.write_text('\n'.join(f'{key} = {value!r}' for key, value in cfg.to_dict().items()))
    env = os.environ | dict(
        PYTHON=sys.executable,
        PORT=str(toy.free_port()),
        OMP_NUM_THREADS='1',
        CUDA_VISIBLE_DEVICES='-1',
    )
    env['PYTHONPATH'] = os.pathsep.join(
        [str(ROOT / 'tests'), *filter(None, [env.get('PYTHONPATH')]), str(ROOT)]
    )
    with (tmp_path / 'log').open('w') as log:
        words = [
            'bash',
            str(ROOT / 'tools/dist_train.sh'),
            str(config),
            '2',
            '--work-dir',
            str(work),
        ]
        run = subprocess.Popen(
            words, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        end = time.monotonic() + FOR_EVER
        while (
            'Epoch(train)' not in (tmp_path / 'log').read_text()
            and time.monotonic() < end
            and run.poll() is None
        ):
            time.sleep(0.1)
        run.send_signal(number)
        code = run.wait(FOR_EVER)
    text = (tmp_path / 'log').read_text()
    assert f'{number.name}: saving after iteration' in text and list(work.glob('iter_*.pth')), text[
        -3000:
    ]
    assert code == 1, text[
        -3000:
    ]  # torchrun's own, whatever the signal; those of its processes are as the log says
    assert until(lambda: not group(run.pid))


def group(leader: int) -> bool:
    """Whether a process of that group is left."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True

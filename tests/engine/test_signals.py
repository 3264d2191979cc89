"""A run that receives a signal saves and exits with its code, on one rank and on several."""

import os
import signal
import subprocess
import time

import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from trials import kill, signals, toy
from trials.ranks import until
from trials.toy import run

from beit_mm.checkpoint.files import read_file
from beit_mm.engine import signals as engine_signals
from beit_mm.registry import HOOKS


@pytest.mark.parametrize('ranks', [1, 2])
@pytest.mark.parametrize('n', [3, pytest.param(20, marks=pytest.mark.long)])
def test_after_a_signal_at_a_random_moment_a_run_resumes_and_ends_with_the_same_bits(
    tmp_path, ranks, n
):
    count = signals.signals(n, seed=3, folder=tmp_path, ranks=ranks)
    wrong = {name: count[name] for name in signals.WRONG}
    assert not any(wrong.values()), (count, (tmp_path / 'log').read_text()[-3000:])


@pytest.mark.parametrize(('same_seconds', 'saved'), [(3600, True), (-1, False)])
def test_a_second_signal_exits_at_once_unless_it_is_the_same_one(
    tmp_path, monkeypatch, same_seconds, saved
):
    def signal_twice(done: int) -> None:
        if done == 3:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0 if saved else 3600)

    monkeypatch.setattr(engine_signals, '_SAME_SIGNAL_SECONDS', same_seconds)
    assert run(tmp_path / 'a', signal_twice, interval=100) == 130
    assert (tmp_path / 'a/iter_3.pth').exists() is saved, (tmp_path / 'log').read_text()


def test_a_signal_while_an_average_is_validated_saves_the_model_itself(tmp_path):
    class Signaled(EMAHook):
        def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
            if runner.iter == 4 and batch_idx == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    HOOKS.register_module(name='Signaled', module=Signaled, force=True)
    plan = (('signaled', 'Signaled', 143), ('signaled', 'EMAHook', 0), ('plain', 'EMAHook', 0))
    for name, hook, code in plan:
        assert run(tmp_path / name, custom_hooks=[dict(type=hook)]) == code
    last = [read_file(tmp_path / name / 'iter_8.pth') for name in ('signaled', 'plain')]
    assert kill.differences(*(each['ema_state_dict'] for each in last)) == []
    results = [kill.result(tmp_path / name) for name in ('signaled', 'plain')]
    assert kill.differences(*results) == []


def test_a_signal_to_one_of_two_ranks_while_they_validate_stops_both(tmp_path):
    class SignaledOnce(Hook):
        def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
            if runner.iter == 10 and batch_idx == 0 and os.environ['RANK'] == '1':
                os.kill(os.getpid(), signal.SIGTERM)

    HOOKS.register_module(name='SignaledOnce', module=SignaledOnce, force=True)
    once = [dict(type='SignaledOnce')]
    for name, hooks, code in (('signaled', once, 143), ('signaled', [], 0), ('plain', [], 0)):
        both = signals.Run(tmp_path / name, tmp_path / 'log', ranks=2, iters=20, custom_hooks=hooks)
        assert both.end()[0] == [code, code], (tmp_path / 'log').read_text()[-3000:]
        if code:
            assert kill.last_iteration(tmp_path / name) == 10
    results = [kill.result(tmp_path / name) for name in ('signaled', 'plain')]
    assert kill.differences(*results) == []


def test_a_checkpoint_inside_an_epoch_is_named_by_its_iteration(tmp_path):
    def send(done: int) -> None:
        if done == 6:
            os.kill(os.getpid(), signal.SIGUSR1)

    assert run(tmp_path / 'a', send, iters=12, epochs=True) == 138
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
    work, config, log = tmp_path / 'work', tmp_path / 'toy.py', tmp_path / 'log'
    cfg = toy.config(work, iters=100_000, interval=100_000, val=100_000, resume=False)
    env = toy.write_config(cfg, config)
    command = ['bash', 'tools/dist_train.sh', str(config), '2', '--work-dir', str(work)]
    with log.open('w') as out:
        options = dict(env=env, cwd=toy.ROOT, stdout=out, stderr=subprocess.STDOUT)
        torchrun = subprocess.Popen(command, start_new_session=True, **options)
    assert until(lambda: 'Epoch(train)' in log.read_text() or torchrun.poll() is not None)
    torchrun.send_signal(number)
    code = torchrun.wait(signals.MAX_SECONDS)
    text = log.read_text()
    assert f'{number.name}: saving after iteration' in text, text[-3000:]
    assert list(work.glob('iter_*.pth')) and code == 1, text[-3000:]  # torchrun's own code
    assert until(lambda: not group_exists(torchrun.pid))


def group_exists(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True

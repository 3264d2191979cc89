"""Runs that are killed, moved, damaged, or out of disk go on; nothing is removed before something newer is whole."""

import os
import re
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from trials import kill, toy

from beit_mm.checkpoint import store
from beit_mm.engine import AtomicCheckpointHook, launch
from beit_mm.engine.atomic_checkpoint import newest_checkpoint


@pytest.fixture(autouse=True)
def quick(unformatted):
    """Runners, and their forks, without laying out their configs."""


def run(work_dir: Path, each=None, **settings) -> int:
    """Exit code of a run in a process of its own; its words are in `log` beside the folder."""
    process = toy.start(
        toy.train, toy.config(work_dir, **settings), each, log=work_dir.parent / 'log'
    )
    process.join()
    return process.exitcode


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob('*.pth'))


def words(folder: Path) -> str:
    return (folder / 'log').read_text()


@pytest.mark.parametrize('epochs', [False, True], ids=['iterations', 'epochs'])
def test_killed_at_random_around_saves_nothing_is_lost_and_the_end_is_the_same_to_the_bit(
    tmp_path, epochs
):
    count = kill.kills(5 if epochs else 20, seed=0, folder=tmp_path, epochs=epochs)
    assert count.pop('ends') > 0 and not any(count.values()), (count, words(tmp_path)[-3000:])


@pytest.mark.long
def test_killed_two_hundred_times_nothing_is_lost(tmp_path):
    assert kill.main(200, 1, tmp_path)


def test_keep_and_best_give_up_the_older_only_and_all_of_them(tmp_path):
    assert run(tmp_path / 'a') == 0
    assert names(tmp_path / 'a') == ['best_loss_iter_8.pth', 'iter_8.pth']
    assert (tmp_path / 'a/last_checkpoint').read_text() == str(tmp_path / 'a/iter_8.pth')
    assert 'no checkpoint to resume from: a new run' in words(tmp_path)


def test_a_damaged_newest_is_passed_over_aloud_and_a_moved_folder_with_a_wrong_pointer_goes_on_in_its_place(
    tmp_path,
):
    def stop(
        done: int,
    ) -> None:  # two checkpoints, as after a kill before the older one was removed
        if done == 5:
            shutil.copy(tmp_path / 'old/iter_5.pth', tmp_path / 'iter_5.pth')
        if done == 6:
            os._exit(0)

    run(tmp_path / 'whole')
    run(tmp_path / 'old', stop)
    shutil.copy(tmp_path / 'iter_5.pth', tmp_path / 'old')
    shutil.copytree(
        tmp_path / 'old', tmp_path / 'new'
    )  # files of now, in any order; the pointer names the old place
    before = names(tmp_path / 'old')
    data = bytearray((tmp_path / 'new/iter_6.pth').read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / 'new/iter_6.pth').write_bytes(data)
    (tmp_path / 'new/.iter_7.pth.tmp').write_bytes(b'half')
    assert run(tmp_path / 'new') == 0
    assert re.search(r'skipped: .*new/iter_6.pth: it is damaged', words(tmp_path))
    assert f'resuming from {tmp_path}/new/iter_5.pth' in words(
        tmp_path
    ) and '.iter_7.pth.tmp, which' in words(tmp_path)
    assert kill.same(kill.result(tmp_path / 'new'), kill.result(tmp_path / 'whole'))
    assert not list((tmp_path / 'new').glob('.*')) and names(tmp_path / 'old') == before


def test_where_no_checkpoint_is_whole_the_run_ends_with_all_of_them_named(tmp_path):
    (tmp_path / 'a').mkdir()
    for step in (1, 2):
        (tmp_path / f'a/iter_{step}.pth').write_bytes(b'half')
    assert run(tmp_path / 'a') == 1
    error = words(tmp_path).rpartition('ValueError')[2]
    assert (
        'none of the 2 checkpoints' in error
        and 'iter_1.pth: it is cut off' in error
        and 'iter_2.pth' in error
    )


# -- which checkpoint is resumed ---------------------------------------------------------------------------------------


def save(path: Path, **more: object) -> Path:
    """A small file as CheckpointHook names and fills it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(meta=dict(iter=1, epoch=0), state_dict={}) | more, path)
    return path


@pytest.mark.parametrize(
    'template', ['step-{:06d}.ckpt', 'iter_{}.pth', None], ids=['own', 'another', 'none']
)
@pytest.mark.parametrize('name', ['step-000002.ckpt', 'epoch_2.pth', 'ours v2 at 2.pth'])
def test_resume_finds_the_checkpoints_of_any_template(tmp_path, name, template):
    save(tmp_path / name.replace('2.', '1.'))
    last = save(tmp_path / name)
    save(tmp_path / 'best_loss_iter_9.pth')
    (tmp_path / 'last_checkpoint').write_text(f'/moved/since/{name}')
    assert newest_checkpoint(tmp_path, tmp_path, template) == (last, [])
    assert last in launch.earlier_checkpoints(config(tmp_path, filename_tmpl=template))
    last.write_bytes(b'half')
    assert newest_checkpoint(tmp_path, tmp_path, template)[0] == tmp_path / name.replace('2.', '1.')


def test_resume_takes_what_last_checkpoint_names_in_another_folder(tmp_path):
    last = save(tmp_path / 'large disk/run/iter_5.pth')
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run/last_checkpoint').write_text(str(last))
    assert newest_checkpoint(tmp_path / 'run', tmp_path / 'run', 'iter_{}.pth') == (last, [])
    last.write_bytes(b'half')
    with pytest.raises(
        ValueError, match=r'--resume: none of the 1 checkpoints .*\n.*iter_5.pth: it is cut off'
    ):
        newest_checkpoint(tmp_path / 'run', tmp_path / 'run', 'iter_{}.pth')


def test_resume_where_only_other_names_are_is_an_error_and_mere_weights_are_none(tmp_path):
    torch.save(dict(state_dict={}), tmp_path / 'tokenizer_8192.pth')
    np.savez(tmp_path / 'data.npz', iter=1)
    assert newest_checkpoint(tmp_path, tmp_path, 'iter_{}.pth') == (None, [])
    save(tmp_path / 'step-2.ckpt')
    with pytest.raises(
        ValueError,
        match=r"holds checkpoints \(step-2\.ckpt\), but none has .*'iter_\{\}\.pth'.* --resume PATH",
    ):
        newest_checkpoint(tmp_path, tmp_path, 'iter_{}.pth')


def config(work_dir: Path, **checkpoint: object) -> Config:
    return Config(dict(work_dir=str(work_dir), default_hooks=dict(checkpoint=checkpoint)))


def test_a_new_run_does_not_start_among_the_checkpoints_of_another(tmp_path, monkeypatch):
    cfg = config(tmp_path / 'run', out_dir=str(tmp_path / 'large disk'))
    launch.refuse_used_folder(cfg)
    save(tmp_path / 'run/best_loss_iter_3.pth')
    launch.refuse_used_folder(cfg)
    save(tmp_path / 'large disk/run/iter_3.pth')
    with pytest.raises(
        SystemExit,
        match=r'large disk/run holds .* earlier run \(iter_3.pth\).*--resume.*--work-dir.*--force',
    ):
        launch.refuse_used_folder(cfg)
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
    launch.refuse_used_folder(cfg)
    assert cfg.resume and cfg.load_from is None


def test_resume_of_a_finished_run_says_that_nothing_is_left_and_from_mere_weights_is_an_error(
    tmp_path,
):
    assert run(tmp_path / 'a', iters=4) == run(tmp_path / 'a', iters=4) == 0
    best = tmp_path / 'a/best_loss_iter_4.pth'
    assert run(tmp_path / 'b', load_from=str(best)) == 1
    assert (
        f'ValueError: --resume: {best} has no optimizer, param_schedulers, so a run cannot'
        in words(tmp_path)
    )
    assert (
        'a/iter_4.pth is from the end of its run (iter 4 of 4): nothing is left to train'
        in words(tmp_path)
    )
    assert 'raise train_cfg.max_iters' in words(tmp_path)


def test_a_disk_that_fills_up_ends_the_run_with_path_and_bytes_and_the_last_one_whole(tmp_path):
    def fill(done: int) -> None:
        if done == 3:
            resource.setrlimit(
                resource.RLIMIT_FSIZE, (100_000, 100_000)
            )  # bytes; a checkpoint has 800 000

    assert run(tmp_path / 'a', fill) == 1
    assert re.search(
        r'OSError: .*a/iter_4.pth of \d{6} bytes could not be written .*go on with --resume',
        words(tmp_path),
    )
    assert 'iter_3.pth' in names(tmp_path / 'a') and not list((tmp_path / 'a').glob('.*'))
    assert run(tmp_path / 'a') == 0
    assert run(tmp_path / 'whole') == 0
    assert kill.same(kill.result(tmp_path / 'a'), kill.result(tmp_path / 'whole'))


def test_a_run_that_died_while_it_validated_validates_when_it_goes_on(tmp_path):
    assert run(tmp_path / 'a', val=8) == 0
    (tmp_path / 'a/best_loss_iter_8.pth').unlink()
    saved = torch.load(tmp_path / 'a/iter_8.pth', weights_only=True)
    for key in ('iter_validated', 'best_score', 'best_ckpt'):
        del saved['message_hub']['runtime_info'][key]
    torch.save(saved, tmp_path / 'a/iter_8.pth')
    assert run(tmp_path / 'a', val=8) == 0
    assert names(tmp_path / 'a') == ['best_loss_iter_8.pth', 'iter_8.pth']


def test_an_older_one_that_cannot_be_removed_is_said_and_tried_again(tmp_path, monkeypatch, caplog):
    def refuse(path: Path) -> None:
        raise PermissionError(13, 'Permission denied', str(path))

    runner = launch.build_runner(toy.config(tmp_path / 'a', iters=2, experiment_name='remove'))
    hook = next(hook for hook in runner.hooks if isinstance(hook, AtomicCheckpointHook))
    runner.logger.addHandler(caplog.handler)
    with monkeypatch.context() as patch:
        patch.setattr(store, 'remove', refuse)
        runner.train()
    assert (
        'iter_1.pth is no longer needed and could not be removed' in caplog.text
        and 'iter_1.pth' in hook.superseded
    )
    hook._remove_superseded(runner)
    assert 'iter_1.pth' not in names(tmp_path / 'a') and not hook.superseded


def test_every_config_saves_so_unless_it_names_another_hook():
    for given, type_ in (
        ({}, 'beit_mm.AtomicCheckpointHook'),
        (
            dict(default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=3))),
            'beit_mm.AtomicCheckpointHook',
        ),
        (
            dict(default_hooks=dict(checkpoint=dict(type='mmengine.CheckpointHook'))),
            'mmengine.CheckpointHook',
        ),
    ):
        cfg = Config(given)
        launch.keep_whole(cfg)
        assert cfg.default_hooks.checkpoint.type == type_
    with pytest.raises(ValueError, match='mounted folders only, backend_args='):
        AtomicCheckpointHook(interval=1, backend_args=dict(backend='petrel'))

"""Runs that are killed, moved, damaged or out of disk space resume and end with the same bits."""

import os
import re
import resource
import shutil
import threading
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from trials import kill, toy
from trials.toy import run

from beit_mm.engine import AtomicCheckpointHook, checkpointing, launch
from beit_mm.engine.find_checkpoint import find_resume_checkpoint, list_checkpoints


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob('*.pth'))


def log(folder: Path) -> str:
    return (folder / 'log').read_text()


def wait_for_checkpoint() -> None:
    for hook in toy.runners[-1].hooks:
        if isinstance(hook, AtomicCheckpointHook) and hook.write:
            hook.write.result()


@pytest.mark.parametrize('epochs', [False, True], ids=['iterations', 'epochs'])
def test_killed_at_random_moments_a_run_ends_with_the_same_bits(tmp_path, epochs):
    count = kill.kills(5 if epochs else 20, seed=0, folder=tmp_path, epochs=epochs)
    assert count.pop('ends') > 0 and not any(count.values()), (count, log(tmp_path)[-3000:])


def test_a_moved_folder_with_a_damaged_newest_file_and_a_wrong_pointer_is_resumed(tmp_path):
    old, new = tmp_path / 'old', tmp_path / 'new'

    def stop(done: int) -> None:
        """Leave two checkpoints, as a kill before the removal of the older one does."""
        wait_for_checkpoint()
        if done == 5:
            shutil.copy(old / 'iter_5.pth', tmp_path)
        if done == 6:
            os._exit(0)

    assert run(tmp_path / 'uninterrupted') == 0
    run(old, stop)
    shutil.copy(tmp_path / 'iter_5.pth', old)
    shutil.copytree(old, new)
    before = names(old)
    content = bytearray((new / 'iter_6.pth').read_bytes())
    content[len(content) // 2] ^= 1
    (new / 'iter_6.pth').write_bytes(content)
    (new / '.iter_7.pth.tmp').write_bytes(b'half')
    assert run(new) == 0
    assert re.search(r'skipped: .*new/iter_6.pth: it is damaged', log(tmp_path))
    assert f'resuming from {new}/iter_5.pth' in log(tmp_path)
    assert '.iter_7.pth.tmp, the partial file' in log(tmp_path)
    assert kill.differences(kill.result(new), kill.result(tmp_path / 'uninterrupted')) == []
    assert not list(new.glob('.*')) and names(old) == before


# -- which checkpoint is resumed


def save(path: Path, **more: object) -> Path:
    """Write a small file with a name and the content of CheckpointHook."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(meta=dict(iter=1, epoch=0), state_dict={}) | more, path)
    return path


def config(work_dir: Path, **checkpoint: object) -> Config:
    return Config(dict(work_dir=str(work_dir), default_hooks=dict(checkpoint=checkpoint)))


TEMPLATES = ('step-{:06d}.ckpt', 'iter_{}.pth', None)
NAMES = ('step-000002.ckpt', 'epoch_2.pth', 'ours v2 at 2.pth')


@pytest.mark.parametrize(
    ('name', 'template'), [*product(NAMES, TEMPLATES), ('ckpt/iter_2.pth', 'ckpt/iter_{}.pth')]
)
def test_resume_finds_the_checkpoints_of_any_template(tmp_path, name, template):
    previous = save(tmp_path / name.replace('2.', '1.'))
    last = save(tmp_path / name)
    save(tmp_path / 'best_loss_iter_9.pth')
    (tmp_path / 'last_checkpoint').write_text(f'/moved/since/{name}')
    assert find_resume_checkpoint(tmp_path, tmp_path, template) == (last, [])
    assert last in list_checkpoints(config(tmp_path, filename_tmpl=template))
    last.write_bytes(b'half')
    assert find_resume_checkpoint(tmp_path, tmp_path, template)[0] == previous


def test_the_newest_intact_file_is_taken_from_the_folder_and_where_last_checkpoint_points(tmp_path):
    work_dir = tmp_path / 'run'
    older, last = save(work_dir / 'iter_2.pth'), save(tmp_path / 'large disk/run/iter_4.pth')
    (work_dir / 'last_checkpoint').write_text(str(last))
    assert find_resume_checkpoint(work_dir, work_dir, 'iter_{}.pth') == (last, [])
    newer = save(work_dir / 'iter_3.pth')
    assert find_resume_checkpoint(work_dir, work_dir, None)[0] == newer
    for path in (older, last, newer):
        path.write_bytes(b'half')
    words = r'none of the 3 checkpoints .*(\n.*: it is cut off.*){3}'
    with pytest.raises(ValueError, match=words):
        find_resume_checkpoint(work_dir, work_dir, 'iter_{}.pth')


def test_weights_and_other_files_are_no_checkpoints_to_resume_from(tmp_path):
    torch.save(dict(state_dict={}), tmp_path / 'tokenizer_8192.pth')
    np.savez(tmp_path / 'data.npz', iter=1)
    save(tmp_path / '.iter_1.pth.tmp')  # of a run that was killed before it was renamed
    assert find_resume_checkpoint(tmp_path, tmp_path, 'iter_{}.pth') == (None, [])


def test_a_new_run_does_not_start_among_the_checkpoints_of_another(tmp_path, monkeypatch):
    cfg = config(tmp_path / 'run', out_dir=str(tmp_path / 'large disk'))
    save(tmp_path / 'run/best_loss_iter_3.pth')
    launch.check_unused_folder(cfg)
    save(tmp_path / 'large disk/run/iter_3.pth')
    words = r'large disk/run holds .* \(iter_3.pth\).*--resume.*--work-dir.*--force'
    with pytest.raises(SystemExit, match=words):
        launch.check_unused_folder(cfg)
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
    launch.check_unused_folder(cfg)
    assert cfg.resume and cfg.load_from is None


@pytest.mark.parametrize('name', ['best_top1_iter_2.pth', 'step-000004.ckpt', 'iter_6.pth'])
def test_a_checkpoint_of_any_name_keeps_other_runs_out_of_its_folder(tmp_path, name):
    mine, other = save(tmp_path / 'run' / name), save(tmp_path / 'other/iter_1.pth')
    cfg = config(tmp_path / 'run')
    for changes in (dict(), dict(resume=True, load_from=str(other))):
        cfg.update(dict(resume=False, load_from=None) | changes)
        with pytest.raises(SystemExit, match=rf'run holds checkpoints .*\({name}\)'):
            launch.check_unused_folder(cfg)
    for path in (None, str(mine)):
        cfg.update(resume=True, load_from=path)
        launch.check_unused_folder(cfg)


def test_mmengines_own_hook_resumes_only_from_what_last_checkpoint_names(tmp_path):
    last = save(tmp_path / 'iter_4.pth')
    cfg = config(tmp_path, type='mmengine.CheckpointHook')
    cfg.update(resume=True, load_from=None)
    with pytest.raises(SystemExit, match='would overwrite'):
        launch.check_unused_folder(cfg)
    (tmp_path / 'last_checkpoint').write_text(str(last))
    launch.check_unused_folder(cfg)


def test_resuming_a_finished_run_says_so_and_resuming_from_weights_is_an_error(tmp_path):
    assert run(tmp_path / 'a', iters=4) == run(tmp_path / 'a', iters=4) == 0
    best = tmp_path / 'a/best_loss_iter_4.pth'
    assert run(tmp_path / 'b', load_from=str(best)) == 1
    words = log(tmp_path)
    assert f'ValueError: --resume: {best} has no optimizer, param_schedulers, so a run' in words
    assert 'a/iter_4.pth is from the end of its run (iter 4 of 4): nothing is left' in words
    assert 'raise train_cfg.max_iters' in words


# -- background writing


def test_training_continues_while_a_checkpoint_is_written_and_the_next_save_waits(
    tmp_path, monkeypatch
):
    slow, released, seen = threading.Event(), threading.Event(), []

    def write_file(path: Path, parts: list) -> None:
        if path.name == 'iter_2.pth':
            slow.set()
            assert released.wait(60)
        real(path, parts)

    def note(done: int) -> None:
        if done == 3:  # iteration 3 is trained while the checkpoint of iteration 2 is being written
            seen.append(slow.wait(60) and not (tmp_path / 'a/iter_2.pth').exists())
            threading.Timer(0.2, released.set).start()
        if done == 4:  # saved, so the checkpoint before is complete
            seen.append((tmp_path / 'a/iter_2.pth').exists())

    real = checkpointing.write_file
    monkeypatch.setattr(checkpointing, 'write_file', write_file)
    cfg = toy.config(tmp_path / 'a', iters=5, interval=2, val=100, experiment_name='slow')
    cfg.default_hooks.checkpoint.max_keep_ckpts = 9
    toy.train(cfg, note)
    assert seen == [True, True]


def test_a_full_disk_ends_the_run_with_path_and_size_and_keeps_the_last_checkpoint(tmp_path):
    def fill(done: int) -> None:
        if done == 3:
            wait_for_checkpoint()
            limit = 100_000  # bytes; a checkpoint has 800 000
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    assert run(tmp_path / 'a', fill) == 1
    words = r'OSError: .*a/iter_4.pth of \d{6} bytes could not be written .*with --resume'
    assert re.search(words, log(tmp_path))
    assert 'iter_3.pth' in names(tmp_path / 'a') and not list((tmp_path / 'a').glob('.*'))
    assert run(tmp_path / 'a') == 0
    assert run(tmp_path / 'uninterrupted') == 0
    results = [kill.result(tmp_path / name) for name in ('a', 'uninterrupted')]
    assert kill.differences(*results) == []


def test_the_last_and_the_best_are_kept_and_an_interrupted_validation_is_repeated(tmp_path):
    for _ in range(2):
        assert run(tmp_path / 'a') == 0
        assert names(tmp_path / 'a') == ['best_loss_iter_8.pth', 'iter_8.pth']
        assert (tmp_path / 'a/last_checkpoint').read_text() == str(tmp_path / 'a/iter_8.pth')
        (tmp_path / 'a/best_loss_iter_8.pth').unlink()
        saved = torch.load(tmp_path / 'a/iter_8.pth', weights_only=True)
        for key in ('iter_validated', 'best_score', 'best_ckpt'):
            del saved['message_hub']['runtime_info'][key]
        torch.save(saved, tmp_path / 'a/iter_8.pth')


def test_a_file_that_cannot_be_removed_is_logged_and_tried_again(tmp_path, monkeypatch, caplog):
    def refuse(path: Path) -> None:
        raise PermissionError(13, 'Permission denied', str(path))

    runner = launch.build_runner(toy.config(tmp_path / 'a', iters=2, experiment_name='remove'))
    hook = next(hook for hook in runner.hooks if isinstance(hook, AtomicCheckpointHook))
    runner.logger.addHandler(caplog.handler)
    with monkeypatch.context() as patch:
        patch.setattr(checkpointing, 'remove_file', refuse)
        runner.train()
    assert 'iter_1.pth could not be removed' in caplog.text and 'iter_1.pth' in hook.superseded
    hook._remove_superseded(runner)
    assert 'iter_1.pth' not in names(tmp_path / 'a') and not hook.superseded


@pytest.mark.parametrize(
    ('hooks', 'expected'),
    [
        ({}, 'beit_mm.AtomicCheckpointHook'),
        (dict(checkpoint=dict(type='CheckpointHook')), 'beit_mm.AtomicCheckpointHook'),
        (dict(checkpoint=dict(type='mmengine.CheckpointHook')), 'mmengine.CheckpointHook'),
    ],
)
def test_every_config_has_atomic_checkpoints_unless_it_names_another_hook(hooks, expected):
    cfg = Config(dict(default_hooks=hooks))
    launch.use_atomic_checkpoints(cfg)
    assert cfg.default_hooks.checkpoint.type == expected

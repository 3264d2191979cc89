"""A fault or crash in any system call of a save leaves one intact checkpoint and no partial one."""

import errno
import io
import os
import re
from pathlib import Path

import pytest
import torch

from beit_mm.checkpoint.integrity import add_save_time, find_damage, find_newest
from beit_mm.engine.atomic_file import remove_file, remove_partial_files, write_file

pytestmark = pytest.mark.any_stack
SYSTEM_CALLS = ('open', 'write', 'fsync', 'replace', 'unlink')


def save(folder: Path, step: int) -> Path:
    path = folder / f'iter_{step}.pth'
    with io.BytesIO() as file:
        torch.save(dict(weight=torch.full((300,), step)), file)
        write_file(path, add_save_time(file.getvalue()))
    return path


def save_twice(folder: Path, name: str, fail_at: int, fault: str) -> None:
    """Save and remove the older file, twice; call number `fail_at` of os.NAME fails."""
    real, calls = getattr(os, name), 0

    def call(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == fail_at and fault == 'crash':
            os._exit(9)
        if calls == fail_at:
            raise OSError(errno.ENOSPC, 'No space left on device')
        return real(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, name, call)
        for step in (2, 3):
            save(folder, step)
            write_file(folder / 'last_checkpoint', [b'x'])
            remove_file(folder / f'iter_{step - 1}.pth')


def failed(folder: Path, name: str, fail_at: int, fault: str) -> bool:
    if fault == 'error':
        try:
            save_twice(folder, name, fail_at, fault)
        except OSError as error:
            words = r'.*/\S+ of \d+ bytes could not be written \(No space .*; \d+ are free\)'
            assert name not in ('write', 'replace') or re.search(words, str(error)), error
            assert not list(folder.glob('.*.tmp'))
            return True
        return False
    pid = os.fork()
    if not pid:
        save_twice(folder, name, fail_at, fault)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


@pytest.mark.parametrize('name', SYSTEM_CALLS)
@pytest.mark.parametrize('fault', ['error', 'crash'])
def test_a_fault_in_any_system_call_leaves_an_intact_checkpoint_and_no_partial_one(
    tmp_path, name, fault
):
    for fail_at in range(1, 100):
        folder = tmp_path / str(fail_at)
        folder.mkdir()
        save(folder, 1)
        reached = failed(folder, name, fail_at, fault)
        path, damaged = find_newest(folder.glob('*.pth'))
        assert path and not damaged, fail_at
        remove_partial_files(folder)
        assert not list(folder.glob('.*'))
        if not reached:
            break
    assert not reached and fail_at > 2


def test_short_writes_are_continued(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, 'write', lambda descriptor, part: write(descriptor, part[:7]))
    assert find_damage(save(tmp_path, 1)) is None


def test_a_forked_worker_does_not_keep_a_file_open_that_is_being_written(tmp_path, monkeypatch):
    fsync, open_in_child = os.fsync, []

    def fork_and_fsync(descriptor: int) -> None:
        pid = os.fork()
        if not pid:
            os._exit(any(os.readlink(f'/proc/self/fd/{n}').endswith('.tmp') for n in range(3, 64)
                         if os.path.lexists(f'/proc/self/fd/{n}')))  # fmt: skip
        open_in_child.append(os.waitpid(pid, 0)[1])
        fsync(descriptor)

    monkeypatch.setattr(os, 'fsync', fork_and_fsync)
    save(tmp_path, 1)
    assert open_in_child and not any(open_in_child)

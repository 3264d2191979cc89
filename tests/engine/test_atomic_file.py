"""A fault or crash in any system call of a save leaves one intact checkpoint and no partial one."""

import errno
import io
import os
import re
import subprocess
import sys
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
            raise OSError(errno.EIO, 'Input/output error')
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
        except OSError:
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


SMALL_DISK = """
set -e
mount -t tmpfs -o size=64k tmpfs {folder}
{python} -c "
import os, sys; sys.path[:0] = [{root!r}, {here!r}]
from test_atomic_file import save, Path
folder = Path({folder!r})
save(folder, 1)
for step in range(2, 99):
    try:
        save(folder, step)
    except OSError as error:
        print(error)
        if 'Read-only' in str(error):
            break
        os.system('mount -o remount,ro {folder}')
print((folder / 'iter_1.pth').exists(), list(folder.glob('.*')))
"
"""


@pytest.mark.skipif(
    subprocess.run(['unshare', '-rm', 'true'], capture_output=True).returncode != 0,
    reason='needs a mount namespace',
)
def test_a_full_and_a_read_only_disk_are_errors_with_path_and_size_and_change_nothing(tmp_path):
    here, root = str(Path(__file__).parent), str(Path(__file__).parents[2])
    script = SMALL_DISK.format(folder=str(tmp_path), python=sys.executable, root=root, here=here)
    done = subprocess.run(['unshare', '-rm', 'bash', '-c', script], capture_output=True, text=True)
    full, read_only, left = done.stdout.splitlines()
    for line, words in ((full, 'No space left on device'), (read_only, 'Read-only file system')):
        pattern = (
            rf'{tmp_path}/iter_\d+.pth of \d+ bytes could not be written .{words}; \d+ are free'
        )
        assert re.search(pattern, line), line
    assert left == 'True []', done.stderr

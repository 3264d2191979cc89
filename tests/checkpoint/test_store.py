"""Files that are whole or not there: flipped bits, lost ends, faults and crashes at every call to the system."""

import errno
import hashlib
import io
import os
import random
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from beit_mm.checkpoint import store
from beit_mm.checkpoint.files import read_file

pytestmark = pytest.mark.any_stack

NAMES = r'iter_\d+\.pth'
CALLS = ('open', 'write', 'fsync', 'replace', 'unlink')


def archive(value: int, size: int = 300) -> bytes:
    with io.BytesIO() as file:
        torch.save(dict(state_dict=dict(weight=torch.full((size,), value))), file)
        return file.getvalue()


def save(folder: Path, step: int) -> Path:
    path = folder / f'iter_{step}.pth'
    store.write(path, store.seal(archive(step)))
    return path


def test_a_sealed_file_is_still_a_pth_for_everybody(tmp_path):
    path = save(tmp_path, 3)
    for how in (dict(), dict(mmap=True)):
        assert torch.load(path, weights_only=True, **how)['state_dict']['weight'][0] == 3
    assert zipfile.ZipFile(path).testzip() is None and path.read_bytes().startswith(archive(3)[:-2])
    body, digest = path.read_bytes()[:-64], path.read_bytes()[-64:]  # as the docs say
    assert hashlib.sha256(body).hexdigest().encode() == digest
    assert not list(tmp_path.glob('.*'))


@pytest.mark.parametrize('fault', ['flip', 'cut'])
def test_a_hundred_flipped_bits_and_a_hundred_lost_ends_are_found_and_the_one_before_is_taken(
    tmp_path, fault
):
    before, path = save(tmp_path, 1), save(tmp_path, 2)
    whole, chance = path.read_bytes(), random.Random(0)
    seal = 8 * (len(whole) - store._LENGTH - 22)
    places = [chance.randrange(8 * len(whole)) for _ in range(60)] + [
        chance.randrange(seal, 8 * len(whole)) for _ in range(40)
    ]
    for place in places:
        if fault == 'flip':
            damaged = bytearray(whole)
            damaged[place // 8] ^= 1 << place % 8
            path.write_bytes(damaged)
        else:
            path.write_bytes(whole[: place // 8])
        found, passed = store.newest(tmp_path, NAMES)
        assert found == before and len(passed) == 1 and str(path) in passed[0], place
        if fault == 'flip':
            with pytest.raises(ValueError, match='iter_2.pth was not loaded: it is damaged'):
                read_file(path)
    path.write_bytes(whole)
    assert store.newest(tmp_path, NAMES) == (path, [])


def test_every_single_bit_of_a_seal_and_of_the_end_of_the_zip_counts(tmp_path):
    path = save(tmp_path, 2)
    whole = path.read_bytes()
    for bit in range(8 * (len(whole) - store._LENGTH - 22), 8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert store.unreadable(path), bit


def test_files_of_the_stock_hook_count_too_and_their_weights_are_checked(tmp_path):
    path = tmp_path / 'iter_9.pth'
    path.write_bytes(archive(9))
    assert store.newest(tmp_path, NAMES) == (path, [])
    damaged = bytearray(archive(9))
    damaged[damaged.index(torch.full((2,), 9).numpy().tobytes()) + 5] ^= 4
    path.write_bytes(damaged)
    assert store.newest(tmp_path, NAMES)[0] is None
    assert torch.load(path, weights_only=True)  # torch itself says nothing


def test_the_newest_is_the_last_written_also_in_a_copied_folder_and_beside_an_older_longer_run(
    tmp_path,
):
    save(tmp_path, 1000)
    last = save(tmp_path, 20)
    os.utime(last, (0, 0))
    (tmp_path / 'iter_30-0a1b2c3d.pth').touch()  # published: weights only
    assert store.newest(tmp_path, NAMES) == (last, [])
    assert store.newest(tmp_path, r'epoch_\d+\.pth') == (None, [])


class Crash(BaseException):
    pass


@pytest.mark.parametrize('name', CALLS)
@pytest.mark.parametrize('fault', ['error', 'crash'])
def test_at_a_fault_in_any_call_there_is_a_whole_checkpoint_and_no_half_one(
    tmp_path, monkeypatch, name, fault
):
    """Save, save, remove the older, over and over: the n-th call fails (EIO), or is the last thing that the process does."""
    real, seen = getattr(os, name), [0]

    def sequence(folder: Path, until: int) -> None:
        def call(*args, **kwargs):
            seen[0] += 1
            if seen[0] == until:
                if fault == 'crash':
                    os._exit(9)
                raise OSError(errno.EIO, 'Input/output error')
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, name, call)
            for step in (2, 3):
                save(folder, step)
                store.write(folder / 'last_checkpoint', [b'x'])
                store.remove(folder / f'iter_{step - 1}.pth')

    reached = True
    for nth in range(1, 100):
        folder = tmp_path / str(nth)
        folder.mkdir()
        save(folder, 1)
        seen[0] = 0
        if fault == 'crash':
            if not (pid := os.fork()):
                sequence(folder, nth)
                os._exit(0)
            reached = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
        else:
            try:
                sequence(folder, nth)
                reached = False
            except OSError as error:
                assert str(folder) in str(error) or name in ('unlink', 'fsync', 'open')
                assert not list(folder.glob('.*.tmp'))
        path, passed = store.newest(folder, NAMES)
        assert path and not passed, nth
        store.sweep(folder)
        assert not list(folder.glob('.*'))
        if not reached:
            break
    assert not reached and nth > 2, 'the last round had no fault, and there were others'


def test_a_write_that_the_system_cuts_short_goes_on(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, 'write', lambda descriptor, piece: real(descriptor, piece[:7]))
    assert store.unreadable(save(tmp_path, 1)) is None


def test_a_disk_that_gives_back_other_bytes_is_found_before_the_older_file_is_replaced(
    tmp_path, monkeypatch
):
    save(tmp_path, 1)
    real = os.read
    monkeypatch.setattr(
        os, 'read', lambda descriptor, size: real(descriptor, size).replace(b'\2', b'\3')
    )
    with pytest.raises(OSError, match='iter_2.pth of .* gave back other bytes'):
        save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ['iter_1.pth']


SMALL_DISK = """
set -e
mount -t tmpfs -o size=64k tmpfs {folder}
{python} -c "
import os, sys; sys.path[:0] = [{root!r}, {here!r}]
from test_store import save, store, Path
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
print((folder / 'iter_1.pth').exists(), not list(folder.glob('.*')), store.newest(folder, r'iter_\\d+\\.pth')[1])
"
"""


@pytest.mark.skipif(
    subprocess.run(['unshare', '-rm', 'true'], capture_output=True).returncode != 0,
    reason='needs a mount of its own',
)
def test_a_full_and_a_read_only_disk_are_named_with_the_bytes_and_leave_what_was_there(tmp_path):
    here, root = str(Path(__file__).parent), str(Path(__file__).parents[2])
    script = SMALL_DISK.format(folder=str(tmp_path), python=sys.executable, root=root, here=here)
    done = subprocess.run(['unshare', '-rm', 'bash', '-c', script], capture_output=True, text=True)
    full, read_only, left = done.stdout.splitlines()
    for line, words in ((full, 'No space left on device'), (read_only, 'Read-only file system')):
        assert re.search(
            f'{tmp_path}/iter_\\d+.pth of \\d+ bytes could not be written .{words}; \\d+ are free',
            line,
        ), line
    assert left == 'True True []', done.stderr

"""Damaged checkpoints are found by the CRC-32 of their entries, and the one before is taken."""

import io
import os
from pathlib import Path

import pytest
import torch

from beit_mm.checkpoint.files import read_file
from beit_mm.checkpoint.integrity import add_save_time, find_damage, find_newest

pytestmark = pytest.mark.any_stack


def serialize(value: int, size: int = 300) -> bytes:
    with io.BytesIO() as file:
        torch.save(dict(state_dict=dict(weight=torch.full((size,), value))), file)
        return file.getvalue()


def save(folder: Path, step: int) -> Path:
    path = folder / f'iter_{step}.pth'
    path.write_bytes(b''.join(add_save_time(serialize(step))))
    return path


def test_a_dated_file_is_a_checkpoint_for_every_reader(tmp_path):
    path = save(tmp_path, 3)
    for options in (dict(), dict(mmap=True)):
        state = torch.load(path, weights_only=True, **options)['state_dict']
        assert state['weight'][0] == 3
    assert path.read_bytes().startswith(serialize(3)[:-2]) and find_damage(path) is None


def test_the_newest_is_the_last_saved_also_in_a_copied_folder_with_an_older_longer_run(tmp_path):
    save(tmp_path, 1000)
    last = save(tmp_path, 20)
    os.utime(last, (0, 0))
    assert find_newest(tmp_path.glob('*')) == (last, [])
    assert find_newest([]) == (None, [])


def test_a_tensor_that_a_flipped_bit_marks_as_a_folder_is_damage(tmp_path):
    """torch.load returns uninitialized memory for it."""
    torch.save(dict(weight=torch.randn(16)), tmp_path / 'a.pth')
    content = bytearray((tmp_path / 'a.pth').read_bytes())
    name = content.rfind(b'a/data/0')  # in the index at the end, after 46 bytes of its entry
    content[name - 46 + 38] ^= 0x10
    (tmp_path / 'a.pth').write_bytes(content)
    assert torch.load(tmp_path / 'a.pth')['weight'].shape == (16,)
    with pytest.raises(
        ValueError, match=r'a\.pth: it is damaged: its entry a/data/0 does not match'
    ):
        read_file(tmp_path / 'a.pth')

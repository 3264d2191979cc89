"""A list of images in mapped memory has the samples of mmpretrain's CustomDataset."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from beit_mm.data.image_list import ImageList

pytestmark = pytest.mark.any_stack


def write(folder: Path, content: str) -> dict:
    (folder / 'list.txt').write_bytes(content.encode())
    return dict(data_root=str(folder), ann_file='list.txt', data_prefix='train')


def test_a_million_entries_take_16_bytes_each_and_are_not_pickled(tmp_path):
    content = '\n\r\n' + ''.join(f'{i}.jpg\n' for i in range(1_000_000))  # blank lines are skipped
    found = ImageList(with_label=False, **write(tmp_path, content))
    assert len(found) == 1_000_000 and found.data_list == []
    assert found._lines.nbytes == 16_000_000
    assert isinstance(found._bytes, np.memmap) and not found._bytes.flags.writeable
    sent = pickle.dumps(found)
    assert len(sent) < 16_010_000
    assert pickle.loads(sent).get_data_info(999_999)['img_path'].endswith('train/999999.jpg')

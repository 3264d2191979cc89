"""A list of images in mapped memory has the samples of mmpretrain's CustomDataset."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import init_default_scope

from beit_mm.data.image_list import ImageList
from beit_mm.registry import DATASETS

pytestmark = pytest.mark.any_stack
LISTS = {
    'plain': 'a/1.jpg 0\nb/2.jpg 12\n',
    'no newline at the end': 'a/1.jpg 0\nb/2.jpg 1',
    'Windows': 'a/1.jpg 0\r\nb/2.jpg 1\r\n',
    'spaces and letters': 'a/my cat.jpg 3\nß/ñandú.jpg 1\n',
    'one': 'x.png 7',
}


def write(folder: Path, content: str) -> dict:
    (folder / 'list.txt').write_bytes(content.encode())
    return dict(data_root=str(folder), ann_file='list.txt', data_prefix='train')


@pytest.mark.parametrize('content', LISTS.values(), ids=LISTS)
@pytest.mark.parametrize('with_label', [True, False])
def test_samples_are_those_of_mmpretrains_data_set(content, with_label, tmp_path):
    init_default_scope('beit_mm')
    place = write(tmp_path, content)
    theirs = DATASETS.build(dict(type='mmpretrain.CustomDataset', with_label=with_label, **place))
    ours = ImageList(with_label=with_label, **place)
    assert len(ours) == len(theirs) == content.count('.')
    last = [-1] if len(ours) > 1 else []  # which theirs does not have for one image
    for index in [*range(len(ours)), *last]:
        assert ours.get_data_info(index) == theirs.get_data_info(index)
    with pytest.raises(IndexError):
        ours.get_data_info(len(ours))


@pytest.mark.parametrize('indices', [None, 1, 3, 10, -2, [4, 0, 2], range(1, 3)])
def test_a_part_of_the_list_is_mmengines_part(indices, tmp_path):
    found = ImageList(
        indices=indices, **write(tmp_path, ''.join(f'{i}.jpg {i}\n' for i in range(10)))
    )
    chosen = list(range(10))
    if isinstance(indices, int):
        chosen = chosen[:indices] if indices > 0 else chosen[indices:]
    elif indices is not None:
        chosen = list(indices)
    assert [found.get_data_info(i)['gt_label'] for i in range(len(found))] == chosen


def test_a_million_entries_take_16_bytes_each_and_are_not_pickled(tmp_path):
    content = '\n\r\n' + ''.join(f'{i}.jpg\n' for i in range(1_000_000))  # blank lines are skipped
    found = ImageList(with_label=False, **write(tmp_path, content))
    assert len(found) == 1_000_000 and found.data_list == []
    assert found._starts.nbytes + found.data_address.nbytes == 16_000_000
    assert isinstance(found.data_bytes, np.memmap) and not found.data_bytes.flags.writeable
    sent = pickle.dumps(found)
    assert len(sent) < 16_010_000
    assert pickle.loads(sent).get_data_info(999_999)['img_path'].endswith('train/999999.jpg')


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='none.txt was not found: expected a list'):
        ImageList(data_root=str(tmp_path), ann_file='none.txt')
    for content in ('', '\n\n'):
        with pytest.raises(ValueError, match='list.txt .* one path per line'):
            ImageList(**write(tmp_path, content))
    found = ImageList(**write(tmp_path, 'a.jpg 0\nb.jpg\n'))
    with pytest.raises(ValueError, match=r"the line 'b\.jpg' has no label.* set with_label=False"):
        found.get_data_info(1)

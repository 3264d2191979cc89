"""A list of images without an object an image: the samples are mmpretrain's CustomDataset's."""

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.registry import init_default_scope

from beit_mm.data.image_list import ImageList
from beit_mm.data.seeded import SeededDataset
from beit_mm.registry import DATASETS

pytestmark = pytest.mark.any_stack


def write(folder: Path, content: str) -> dict:
    (folder / 'list.txt').write_bytes(content.encode())
    return dict(data_root=str(folder), ann_file='list.txt', data_prefix='train')


LISTS = {
    'plain': 'a/1.jpg 0\nb/2.jpg 12\n',
    'no newline at the end': 'a/1.jpg 0\nb/2.jpg 1',
    'of Windows': 'a/1.jpg 0\r\nb/2.jpg 1\r\n',
    'spaces and letters': 'a/my cat.jpg 3\nß/ñandú.jpg 1\n',
    'one': 'x.png 7',
}


@pytest.mark.parametrize('content', LISTS.values(), ids=LISTS)
@pytest.mark.parametrize('with_label', [True, False])
def test_samples_are_those_of_mmpretrains_data_set(content, with_label, tmp_path):
    init_default_scope('beit_mm')
    place = write(tmp_path, content)
    theirs = DATASETS.build(dict(type='mmpretrain.CustomDataset', with_label=with_label, **place))
    ours = ImageList(with_label=with_label, **place)
    assert len(ours) == len(theirs) == content.count('.')
    for index in [
        *range(len(ours)),
        *([-1] if len(ours) > 1 else []),
    ]:  # of one, theirs has no last one
        assert ours.get_data_info(index) == theirs.get_data_info(index)
    with pytest.raises(IndexError):
        ours.get_data_info(len(ours))


@pytest.mark.parametrize('indices', [None, 1, 3, 10, -2, [4, 0, 2], range(1, 3)])
def test_a_part_of_the_list_is_mmengines_part(indices, tmp_path):
    place = write(tmp_path, ''.join(f'{i}.jpg {i}\n' for i in range(10)))
    found = ImageList(indices=indices, **place)
    chosen = list(range(10))
    chosen = chosen[:indices] if isinstance(indices, int) and indices > 0 else chosen
    chosen = chosen[indices:] if isinstance(indices, int) and indices < 0 else chosen
    chosen = list(indices) if not isinstance(indices, int | None) else chosen
    assert [found.get_data_info(i)['gt_label'] for i in range(len(found))] == chosen


def test_blank_lines_are_no_images(tmp_path):
    found = ImageList(with_label=False, **write(tmp_path, '\n\na.jpg\n\r\nb.jpg\n\n'))
    assert [Path(found.get_data_info(i)['img_path']).name for i in range(len(found))] == [
        'a.jpg',
        'b.jpg',
    ]


def test_it_is_mapped_not_copied_and_travels_to_a_spawned_worker_by_name(tmp_path):
    found = ImageList(
        with_label=False, **write(tmp_path, ''.join(f'{i:060d}.jpg\n' for i in range(20_000)))
    )
    assert isinstance(found.data_bytes, np.memmap) and not found.data_bytes.flags.writeable
    sent = pickle.dumps(found)
    assert len(sent) < 20_000 * 17 + 20_000 < len(found.data_bytes)
    assert pickle.loads(sent).get_data_info(19_999) == found.get_data_info(19_999)


def test_a_million_entries_take_16_bytes_each(tmp_path):
    found = ImageList(
        with_label=False, **write(tmp_path, ''.join(f'{i}.jpg\n' for i in range(1_000_000)))
    )
    assert found._starts.nbytes + found.data_address.nbytes == 16_000_000 and found.data_list == []
    assert found.get_data_info(999_999)['img_path'].endswith('train/999999.jpg')


def test_what_cannot_be_read_is_told(tmp_path):
    with pytest.raises(
        FileNotFoundError, match='none.txt is not there: a list of images, a path a line'
    ):
        ImageList(data_root=str(tmp_path), ann_file='none.txt')
    for content in ('', '\n\n'):
        with pytest.raises(ValueError, match='it needs a path a line'):
            ImageList(**write(tmp_path, content))
    found = ImageList(**write(tmp_path, 'a.jpg 0\nb.jpg\n'))
    with pytest.raises(
        ValueError,
        match=r"the line 'b\.jpg' has no label behind a space: add it, or set with_label=False",
    ):
        found.get_data_info(1)


def test_it_is_a_data_set_as_any_other(tmp_path):
    (tmp_path / 'train').mkdir()
    cv2.imwrite(str(tmp_path / 'train/a.png'), np.full((20, 20, 3), 9, np.uint8))
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='beit_mm.TwoViews', size=8, token_size=4),
        dict(type='PackViews'),
    ]
    init_default_scope('beit_mm')
    found = SeededDataset(
        dict(
            type='ImageList',
            with_label=False,
            pipeline=pipeline,
            **write(tmp_path, 'a.png\ngone.png\n'),
        )
    )
    assert (found[0]['inputs']['patch_view'] == 9).all()
    with pytest.raises(ValueError, match=r'gone\.png, cannot be read'):
        found[1]

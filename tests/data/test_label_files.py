"""Label maps are read as mmseg reads them, turned like their images, or named."""

import bad_files
import numpy as np
import pytest
from bad_files import MAPS
from PIL import Image

from beit_mm.data.image_files import BadSample, apply_orientation
from beit_mm.data.label_files import read_labels, to_classes

pytestmark = pytest.mark.any_stack
SHOWN = (bad_files.HEIGHT, bad_files.WIDTH)


def mmseg_reads(path: str, reduce: bool, label_map: dict | None = None) -> np.ndarray:
    loading = pytest.importorskip('mmseg.datasets.transforms.loading')
    given = dict(seg_map_path=path, seg_fields=[], reduce_zero_label=reduce, label_map=label_map)
    return loading.LoadAnnotations().transform(given)['gt_seg_map']


@pytest.mark.parametrize('name', MAPS)
def test_a_label_map_is_read_as_mmseg_reads_it_or_named(tmp_path, name):
    make, message = MAPS[name]
    path = str(bad_files.write(tmp_path / 'map.png', make()))
    if message:
        with pytest.raises(BadSample, match=rf'map\.png.*{message}'):
            to_classes(path, read_labels(path, SHOWN), 3, True)
        return
    found = to_classes(path, read_labels(path, SHOWN), 3, True)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, mmseg_reads(path, True))


@pytest.mark.parametrize('reduce', [True, False])
@pytest.mark.parametrize('label_map', [None, {0: 1, 1: 0, 2: 255}, {0: 255, 1: 255, 2: 0}])
def test_every_value_becomes_what_mmseg_makes_of_it(tmp_path, reduce, label_map):
    labels = np.array([[0, 1, 2, 255], [2, 1, 0, 3 if reduce else 2]], np.uint8)
    path = str(bad_files.write(tmp_path / 'map.png', bad_files.grey(labels)))
    expected = mmseg_reads(path, reduce, label_map)
    np.testing.assert_array_equal(to_classes('a', labels, 3, reduce, label_map), expected)
    labels[0, 0] = wrong = 4 if reduce else 3
    with pytest.raises(BadSample, match=f'value {wrong}, expected {int(reduce)} … '):
        to_classes('a', labels, 3, reduce, label_map)


@pytest.mark.parametrize('orientation', range(2, 9))
def test_a_map_of_a_turned_photo_is_turned_with_it_kept_or_refused(orientation, tmp_path):
    def read(labels: np.ndarray, shown: tuple[int, int], **options) -> np.ndarray:
        content = bad_files.encoded(Image.fromarray(labels), **options)
        return read_labels(str(bad_files.write(tmp_path / 'a.png', content)), shown, orientation)

    stored = bad_files.ids()
    shown = apply_orientation(stored, orientation)
    if orientation >= 5:
        for given in (stored, shown):
            np.testing.assert_array_equal(read(given, shown.shape), shown)
    else:
        with pytest.raises(BadSample, match=f'EXIF orientation {orientation}, .*does not tell'):
            read(shown, shown.shape)
    with pytest.raises(BadSample, match='does not tell'):
        read(stored[:, :48], (48, 48))
    tagged = read(stored, shown.shape, exif=bad_files.exif(orientation))
    np.testing.assert_array_equal(tagged, shown)

"""Label maps are read as mmseg reads them or named; what cannot be learned is named by its values."""

import bad_files
import numpy as np
import pytest
from bad_files import MAPS, grey, jpeg, write
from PIL import Image

from beit_mm.data.image_files import BadSample, apply_orientation
from beit_mm.data.label_maps import check_label_maps, read_label_maps, read_labels, to_classes

pytestmark = pytest.mark.any_stack
SHOWN = (bad_files.HEIGHT, bad_files.WIDTH)


def mmseg_reads(path: str, reduce: bool, label_map: dict | None = None) -> np.ndarray:
    loading = pytest.importorskip('mmseg.datasets.transforms.loading')
    given = dict(seg_map_path=path, seg_fields=[], reduce_zero_label=reduce, label_map=label_map)
    return loading.LoadAnnotations().transform(given)['gt_seg_map']


@pytest.mark.parametrize('name', [name for name, (_, error) in MAPS.items() if not error])
def test_a_label_map_is_read_as_mmseg_reads_it(tmp_path, name):
    path = str(bad_files.write(tmp_path / 'map.png', MAPS[name][0]()))
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
def test_a_map_is_turned_by_its_own_tag_and_refused_if_its_size_cannot_tell(orientation, tmp_path):
    def read(labels: np.ndarray, shown: tuple[int, int], **options) -> np.ndarray:
        content = bad_files.encoded(Image.fromarray(labels), **options)
        return read_labels(str(bad_files.write(tmp_path / 'a.png', content)), shown, orientation)

    stored = bad_files.ids()
    shown = apply_orientation(stored, orientation)
    with pytest.raises(BadSample, match=f'EXIF orientation {orientation}, .*does not tell'):
        read(stored[:, :48], (48, 48))
    tagged = read(stored, shown.shape, exif=bad_files.exif(orientation))
    np.testing.assert_array_equal(tagged, shown)


# -- what cannot be learned ---------------------------------------------------------------------------

TWO, THREE = ['ground', 'object'], ['ground', 'cat', 'dog']


def made(root, *values: list[int], total: int | None = None):
    """Read label maps that have a row for each of their values."""
    pairs = [(root / f'images/{i}.jpg', root / f'maps/{i}.png') for i in range(len(values))]
    for (image, path), rows in zip(pairs, values, strict=True):
        write(image, jpeg(size=(len(rows), 4)))
        write(path, grey(np.repeat(np.array(rows)[:, None], 4, axis=1)))
    return read_label_maps(pairs, total or len(values))


# values of the label maps, classes, reduce_zero_label, parts of the message, whether it is an error
CASES = {
    'right': ([[0, 1, 2], [1, 2, 255]], TWO, True, None, None),
    'right, 0 is a class': ([[0, 1], [1, 255]], TWO, False, None, None),
    '0 and 1 with True': ([[0, 1]], TWO, True, [
        "'ground' is the only class in 1 label map, so there is nothing to learn. The values are 0,",
        '1 with reduce_zero_label=True. Set reduce_zero_label'], True),
    '0 and 255 with False': ([[0, 255], [0, 0]], TWO, False, [
        "'ground' is the only class in 2 label maps", 'The values are 0, 255', 'Set reduce_zero'], True),
    '0 and 255 with True': ([[0, 255]], TWO, True, ['no pixel has a class in 1 label map'], True),
    '1, 2 and 255 with False': ([[1, 2, 255]], TWO, False, [
        'values 2 in 1 of 1 label map, e.g. ', 'maps/0.png: expected 0 … 1 for classes, 255',
        'Set reduce_zero_label of the data set'], True),
    'several values without a class': ([[0, 6, 7, 8], [1, 8], [0, 1]], TWO, False, [
        'values 6, 7, 8 in 2 of 3 label maps, e.g. ', 'maps/0.png: expected 0 … 1'], True),
    'an absent class': ([[0, 1]], THREE, False, ["1 label map has these classes: 'dog'"], False),
    'nearly all ignored': ([[0, 1] + [255] * 98], TWO, False, ['98.0% of the pixels', '255'], False),
    'a map without a label': ([[1, 2], [0, 255]], TWO, True, [
        '1 of 2 label maps have no pixel with a class, e.g. ', 'maps/1.png'], False),
}  # fmt: skip


@pytest.mark.parametrize('case', CASES)
def test_what_cannot_be_learned_is_named_with_its_fix(case, tmp_path):
    values, classes, reduce, parts, is_error = CASES[case]
    found = list(check_label_maps(made(tmp_path, *values), classes, reduce))
    assert len(found) == bool(parts), found
    for text, error in found:
        assert all(part in text for part in parts) and error == is_error, text


def test_one_class_in_a_sample_is_an_error_only_if_values_are_ignored(tmp_path):
    ((text, is_error),) = check_label_maps(made(tmp_path, [0], total=100), TWO, False)
    assert not is_error and 'the only class in a sample of 1 of 100 label maps' in text
    assert next(check_label_maps(made(tmp_path, [0, 255], total=100), TWO, False))[1]


def test_values_of_chosen_classes_are_those_of_the_data_set(tmp_path):
    maps, label_map = made(tmp_path, [0, 1, 2]), {0: 1, 1: 255, 2: 0}
    assert list(check_label_maps(maps, ['dog', 'ground'], False, label_map)) == []


def test_unreadable_maps_are_one_line_per_reason(tmp_path):
    names = ['color', 'smaller', 'larger', 'color', '16-bit, value 300', 'palette', 'empty']
    pairs = []
    for i, name in enumerate(names):
        content = MAPS[name][0]()
        pairs.append((write(tmp_path / f'{i}.jpg', jpeg()), write(tmp_path / f'{i}.png', content)))
    maps, classes = read_label_maps(pairs, 7), ['a', 'b', 'c', 'd']
    found = [text for text, is_error in check_label_maps(maps, classes, False) if is_error]
    assert len(found) == 4
    assert '/0.png has colors' in found[0] and found[0].endswith(' (and 1 more like it)')
    assert '/1.png has 32×24 pixels' in found[1] and found[1].endswith(' (and 1 more like it)')
    assert '/4.png has the value 300, expected 0 … 255' in found[2] and '/6.png' in found[3]
    skipped = check_label_maps(maps, classes, False, skip_bad=True)
    assert not any(is_error for _, is_error in skipped)


def test_the_time_to_read_is_bounded_and_a_turned_photo_fits_its_map(tmp_path):
    pairs = [(tmp_path / f'{i}.jpg', tmp_path / f'{i}.png') for i in range(3)]
    for image, path in pairs:
        write(image, bad_files.jpeg(orientation=6))
        write(path, grey(np.zeros((64, 48))))
    maps = read_label_maps(pairs, 3)
    assert maps.faults == {} and str(maps) == '3 label maps'
    assert str(read_label_maps(pairs, 3, seconds=-1)) == 'a sample of 1 of 3 label maps'

"""Label maps that cannot be learned from are told from those that can, by the values that they hold."""

import numpy as np
import pytest
from bad_files import MAPS, grey, jpeg, write
from PIL import Image

from beit_mm.data.label_maps import problems, read_label_maps, spans

pytestmark = pytest.mark.any_stack

ONE, TWO, THREE = ['object'], ['ground', 'object'], ['ground', 'cat', 'dog']


def made(root, *values: list[int], total: int | None = None):
    """Label maps of which each has a row for each of its values."""
    pairs = [(root / f'images/{i}.jpg', root / f'maps/{i}.png') for i in range(len(values))]
    for (image, path), rows in zip(pairs, values, strict=True):
        size = len(rows), 4
        write(image, jpeg(size=size))
        write(path, grey(np.repeat(np.array(rows)[:, None], 4, axis=1)))
    return read_label_maps(pairs, total or len(values))


WRITE, SET = (
    'write 1 in place of 255',
    'set reduce_zero_label=False in the data set (and in LoadAnnotations, if set there)',
)
# what is in the maps, classes, reduce_zero_label, what is said (in parts), whether it stops
CASES = {
    'right': ([[0, 1, 2], [1, 2, 255]], TWO, True, None, None),
    'right, 0 is a class': ([[0, 1], [1, 255]], TWO, False, None, None),
    '0 and 1 with True': (
        [[0, 1]], TWO, True,
        ["'ground' is the only class in 1 label map, so there is nothing to tell apart. The values are 0, 1, of which 0 is "
         f'ignored (reduce_zero_label=True). If 0 is a class, {SET} and name the class of 0 first'], True),
    '0 and 1 with True and one class': ([[0, 1]], ONE, True, ["'object' is the only class", SET], True),
    '0 and 255 with False': (
        [[0, 255], [0, 0]], TWO, False,
        ["'ground' is the only class in 2 label maps", 'The values are 0, 255, of which 255 is ignored. If 255 is a class, '
         + WRITE], True),
    '0 and 255 with True': (
        [[0, 255]], TWO, True,
        ['no pixel has a class in 1 label map, so the loss is exactly 0', 'If 0 and 255 are classes', SET, WRITE], True),
    '1, 2 and 255 with False': (
        [[1, 2, 255]], TWO, False,
        ['the value 2 in 1 of 1 label map, e.g. ', 'maps/0.png: 0 … 1 are the classes, 255 is ignored (reduce_zero_label=False). '
         'If 0 is unlabelled, set reduce_zero_label=True in the data set (and in LoadAnnotations'], True),
    'ground alone': ([[0, 0], [0, 0]], TWO, False, ["'ground' is the only class in 2 label maps"], True),
    'several values of no class': (
        [[0, 6, 7, 8], [1, 8], [0, 1]], TWO, False, ['the values 6–8 in 2 of 3 label maps, e.g. ', 'maps/0.png: 0 … 1 are'], True),
    'a class never occurs': ([[0, 1]], THREE, False, ["'dog' occurs in none of 1 label map"], False),
    'the last class never occurs since 0 is a class': (
        [[0, 1, 2]], THREE, True, ["'dog' occurs in none of", f'If 0 is a class, {SET}'], False),
    'nearly all ignored': ([[0, 1] + [255] * 98], TWO, False, ['98.0% of the pixels', 'are ignored (the values 255)'], False),
    'a map without a label': (
        [[1, 2], [0, 255]], TWO, True, ['1 of 2 label maps have no pixel with a class, e.g. ', 'maps/1.png'], False),
}  # fmt: skip


@pytest.mark.parametrize('case', CASES)
def test_what_cannot_be_learned_is_named_with_its_fix(case, tmp_path):
    values, classes, reduce, said, stops = CASES[case]
    found = list(problems(made(tmp_path, *values), classes, reduce))
    assert len(found) == bool(said), found
    for words, stop in found:
        assert all(part in words for part in said) and stop == stops, words


def test_in_a_sample_one_class_stops_only_where_the_values_explain_it(tmp_path):
    ((words, stops),) = problems(made(tmp_path, [0], total=100), TWO, False)
    assert not stops and "'ground' is the only class in a sample of 1 of 100 label maps" in words
    assert next(problems(made(tmp_path, [0, 255], total=100), TWO, False))[1]


def test_ids_of_some_chosen_classes_are_those_of_the_data_set(tmp_path):
    maps = made(tmp_path, [0, 1, 2])
    assert list(problems(maps, ['dog', 'ground'], False, label_map={0: 1, 1: 255, 2: 0})) == []


def test_maps_that_cannot_be_read_come_in_one_line_for_each_reason(tmp_path):
    pairs = []
    for i, name in enumerate(
        [
            'colour',
            'smaller',
            'larger',
            'colour',
            '16-bit, value 300',
            'palette',
            '16-bit ids',
            'empty',
        ]
    ):
        pairs.append(
            (write(tmp_path / f'{i}.jpg', jpeg()), write(tmp_path / f'{i}.png', MAPS[name][0]()))
        )
    found = [
        words
        for words, stops in problems(read_label_maps(pairs, 8), ['a', 'b', 'c', 'd'], False)
        if stops
    ]
    assert found == [
        f'{tmp_path}/0.png is a picture (mode RGB): a label map is one number a pixel, a class id (mode L or P) (and 1 more like '
        'it)',
        f'{tmp_path}/1.png is 32×24, its image 64×48: they must be equally large (and 1 more like it)',
        f'{tmp_path}/4.png has the value 300: values from 0 to 255 are expected',
        f'{tmp_path}/7.png is empty: fetch it again',
    ]
    assert not any(
        stops
        for _, stops in problems(
            read_label_maps(pairs, 8), ['a', 'b', 'c', 'd'], False, skip_bad=True
        )
    )


def test_the_time_to_read_is_bounded_and_a_turned_photo_fits_its_map(tmp_path):
    pairs = [
        (write(tmp_path / f'{i}.jpg', jpeg(orientation=6)), tmp_path / f'{i}.png') for i in range(3)
    ]
    for _, path in pairs:
        Image.fromarray(np.zeros((64, 48), np.uint8)).save(path)
    maps = read_label_maps(pairs, 3)
    assert maps.bad == [] and maps.words == '3 label maps'
    assert read_label_maps(pairs, 3, seconds=-1).words == 'a sample of 1 of 3 label maps'


def test_numbers_are_written_as_spans():
    assert spans([0, 6, 7, 8, 10, 11, 255]) == '0, 6–8, 10, 11, 255'

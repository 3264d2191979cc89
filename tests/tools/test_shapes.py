"""Shapes: scenes depend on (seed, index) only, teach what they should, and are written as data sets."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from shapes import draw as shapes
from shapes.draw import CLASSES, PALETTE, SPECIES, draw_dataset, scene
from shapes.layout import layout, palette_of, texture_of

pytestmark = pytest.mark.any_stack
SMALL = dict(train=40, val=20, seed=3, size=64, segmentation_train=20, segmentation_val=10,
             labels=(10, 30), jobs=1)  # fmt: skip
# Scene of seed 7, wrapped → gray level of its quarters, contrast, pixels of bar, ground and class
GOLDEN = {
    (0, False): ([166, 171, 172, 172], 38.7, [0, 3120, 847]),
    (1, False): ([166, 164, 170, 170], 35.2, [203, 3052, 841]),
    (2, False): ([68, 72, 58, 67], 45.8, [217, 2806, 991]),
    (7, False): ([79, 73, 75, 79], 33.4, [0, 3219, 794]),
    (3, False): ([162, 152, 156, 149], 43.5, [248, 2883, 841]),
    (4, False): ([168, 168, 168, 168], 52.6, [0, 3120, 976]),
    (3, True): ([162, 161, 156, 155], 39.1, [248, 2896, 828]),
    (9, True): ([155, 163, 156, 164], 42.4, [266, 3003, 705]),
}


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp('shapes') / 'set'
    assert draw_dataset(out, **SMALL)
    return out


def files(folder):
    paths = (path for path in folder.rglob('*') if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in paths}


@pytest.mark.parametrize('size, grays, pixels', [(64, 1, 4), (224, 5, 25)])
def test_scenes_are_those_of_earlier_versions_at_any_size(size, grays, pixels):
    """Otherwise `VERSION` has to rise, and figures on Shapes are not comparable."""
    for (index, wrapped), (quarters, contrast, areas) in GOLDEN.items():
        image, labels, label = scene(7, index, size, wrapped)
        gray = cv2.resize(image, (2, 2), interpolation=cv2.INTER_AREA).mean(-1).ravel()
        assert np.abs(gray - quarters).max() <= grays, index
        assert abs(image.std() - contrast) <= grays, index
        found = np.bincount(labels.ravel(), minlength=12)[[0, 1, 2 + index]] * (64 / size) ** 2
        assert label == index and np.abs(found - areas).max() <= pixels, index
    arrangements = {layout(7, index).arrangement for index, _ in GOLDEN}
    assert arrangements == {'mirror', 'ring', 'row', 'grid'}


def accuracy(features, labels, train=600):
    """Return the accuracy of a one-vs-rest ridge regression on standardized features."""
    features = (features - features[:train].mean(0)) / (features[:train].std(0) + 1e-6)
    features = np.column_stack([features, np.ones(len(features))])
    seen, wanted = features[:train], np.eye(10)[labels[:train]]
    weights = np.linalg.solve(seen.T @ seen + 30 * np.eye(seen.shape[1]), seen.T @ wanted)
    return ((features[train:] @ weights).argmax(1) == labels[train:]).mean()


def test_label_maps_agree_with_the_class_and_no_single_cue_tells_it():
    images, maps, labels = map(np.array, zip(*(scene(11, i, 64) for i in range(900)), strict=True))
    areas = np.stack([(maps == 2 + species).sum((1, 2)) for species in range(len(SPECIES))], 1)
    assert np.array_equal(areas.argmax(1), labels)  # the class has the largest area
    shares = np.stack([(maps == value).mean() for value in range(12)])
    assert 0 < shares[0] < 0.06 and 0.6 < shares[1] < 0.9
    assert shares[2:].max() < 2.2 * shares[2:].min()  # no species is rare

    pairs = [(texture_of(species), palette_of(species)) for species in range(10)]
    assert len(set(pairs)) == 10
    for cue in zip(*pairs, strict=True):
        assert np.bincount(cue).tolist() == [2] * 5  # at best every second guess is right
    bins = [(image >> 6).reshape(-1, 3) @ [16, 4, 1] for image in images]
    colors = np.stack([np.bincount(each, minlength=64) for each in bins]) ** 0.5
    gray = images.mean(3)
    gray = gray - gray.mean((1, 2), keepdims=True)
    spectrum = np.log1p(np.abs(np.fft.rfft2(gray))[:, :32:2, :32:2].reshape(len(gray), -1))
    assert 0.12 < accuracy(images.mean((1, 2)), labels) < 0.4
    assert 0.2 < accuracy(colors, labels) < 0.6
    assert 0.12 < accuracy(spectrum, labels) < 0.6


def test_lists_number_the_class_folders_and_label_maps_are_those_of_the_scenes(drawn):
    meta = drawn / 'imagenet/meta'
    for split, count in dict(train=40, val=20, train_30=30).items():
        lines = (meta / f'{split}.txt').read_text().splitlines()
        folders = sorted(path.name for path in (drawn / f'imagenet/{split[:5]}').glob('n*'))
        assert len(lines) == count and len(folders) == 10
        assert all(folders[int(line.split()[1])] == line.split('/')[0] for line in lines)
    assert (meta / 'classes.txt').read_text().split() == list(SPECIES)
    assert len((drawn / 'ade20k/training_10.txt').read_text().split()) == 10
    assert not (drawn / 'ade20k/training_30.txt').exists()  # it has only twenty
    assert len(PALETTE) == len(CLASSES) == 11
    for index in range(20):
        with Image.open(drawn / f'ade20k/annotations/training/ADE_train_{index:08d}.png') as labels:
            assert np.array_equal(labels, scene(3, 2 * 10**9 + index, 64)[1])
            assert labels.getpalette()[3:36] == [value for color in PALETTE for value in color]
    images = [path for path in drawn.rglob('*') if path.suffix in ('.JPEG', '.jpg')]
    assert len(images) == len({path.read_bytes() for path in images}) == 90
    seventh = cv2.imread(str(drawn / 'imagenet/train/n00000007/shapes_train_00000007.JPEG'))
    assert np.abs(seventh[..., ::-1].astype(int) - scene(3, 7, 64)[0]).mean() < 3  # JPEG's loss


def test_a_finished_set_is_kept_and_other_files_are_not_overwritten(drawn, tmp_path, capsys):
    before = {path: path.stat().st_mtime_ns for path in drawn.rglob('*')}
    assert draw_dataset(drawn, **SMALL) is False
    assert 'already' in capsys.readouterr().err
    (tmp_path / 'photo.jpg').write_bytes(b'mine')
    for out, settings in ((drawn, SMALL | dict(seed=4)), (tmp_path, SMALL)):
        with pytest.raises(ValueError, match='choose another folder or delete it'):
            draw_dataset(out, **settings)
    assert before == {path: path.stat().st_mtime_ns for path in drawn.rglob('*')}


def test_an_interrupted_drawing_is_no_data_set_and_two_processes_draw_the_same(
    drawn, tmp_path, monkeypatch
):
    out, real = tmp_path / 'set', shapes._draw

    def dies(task):
        if task[1] == 'val':
            raise KeyboardInterrupt
        return real(task)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shapes, '_draw', dies)
        draw_dataset(out, **SMALL)
    assert not out.exists()
    assert draw_dataset(out, **SMALL | dict(jobs=2)) and files(out) == files(drawn)
    assert [path.name for path in tmp_path.iterdir()] == ['set']


@pytest.mark.parametrize('given', [dict(train=-1), dict(size=8), dict(seed=-1), dict(labels=(41,))])
def test_bad_numbers_are_refused_before_anything_is_written(tmp_path, given):
    with pytest.raises(ValueError, match=f'{next(iter(given))}.*expected'):
        draw_dataset(tmp_path / 'set', **SMALL | given)
    assert not [*tmp_path.iterdir()]


def test_the_command_line_draws_without_loading_torch(tmp_path):
    tool = Path(__file__).parents[2] / 'tools/draw_shapes.py'
    code = f"import sys, runpy; sys.path.insert(0, '{tool.parent}')\n"
    code += f"print(runpy.run_path('{tool}')['main'](sys.argv[1:]), 'torch' in sys.modules)"
    words = [str(tmp_path / 'set'), '--train', '10', '--val', '10', '--jobs', '1']
    command = [sys.executable, '-c', code, *words]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ['0', 'False'] and '26/26 images' in run.stderr
    settings = json.loads((tmp_path / 'set' / 'shapes.json').read_text())
    assert settings['training'] == 1 and settings['validation'] == 5

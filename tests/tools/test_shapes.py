"""Shapes: scenes depend on (seed, index) only, teach what they should, and are read by mmpretrain and mmseg."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from shapes import draw as shapes
from shapes.draw import CLASSES, PALETTE, SPECIES, scene, write
from shapes.layout import layout, palette_of, texture_of
from shapes.scene import render

pytestmark = pytest.mark.any_stack
SMALL = dict(train=40, val=20, seed=3, size=64, segmentation_train=20, segmentation_val=10,
             labels=(10, 30), jobs=1)  # fmt: skip
CENTER = (slice(8, 24), slice(8, 24))


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp('shapes') / 'set'
    assert write(out, **SMALL)
    return out


@pytest.fixture(scope='module')
def many():
    images, maps, labels = zip(*(scene(11, i, 64) for i in range(900)), strict=True)
    return np.stack(images), np.stack(maps), np.array(labels)


def files(folder):
    paths = (path for path in folder.rglob('*') if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in paths}


def drawing(plan, size: int):
    return render(plan, size, np.random.default_rng(0))


# -- scenes ------------------------------------------------------------------------------------------


def test_a_scene_depends_on_seed_and_index_only():
    first = scene(5, 123, 64)
    scene(5, 7, 112)
    np.random.seed(1)
    again = scene(5, 123, 64)
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    for other in (scene(6, 123, 64), scene(5, 133, 64)):
        assert np.abs(first[0].astype(int) - other[0]).mean() > 5


@pytest.mark.parametrize('size', [112, 224])
def test_size_is_resolution_only(size):
    for index in range(12):
        small, small_map, _ = scene(2, index, 64)
        large, large_map, _ = scene(2, index, size)
        shrunk = cv2.resize(large, (64, 64), interpolation=cv2.INTER_AREA).astype(int)
        assert np.abs(shrunk - small).mean() < 5
        nearest = cv2.resize(large_map, (64, 64), interpolation=cv2.INTER_NEAREST_EXACT)
        assert (nearest == small_map).mean() > 0.97  # outlines differ by a pixel


def test_label_maps_agree_with_the_class(many):
    _, maps, labels = many
    assert maps.dtype == np.uint8 and maps.max() < 2 + len(SPECIES)
    assert np.bincount(labels).tolist() == [90] * 10
    areas = np.stack([(maps == 2 + species).sum((1, 2)) for species in range(len(SPECIES))], 1)
    assert np.array_equal(areas.argmax(1), labels)  # the class has the largest area
    ordered = np.sort(areas, 1)
    assert (ordered[:, -1] > 1.5 * ordered[:, -2]).mean() > 0.97
    shares = np.stack([(maps == value).mean() for value in range(12)])
    assert 0 < shares[0] < 0.06 and 0.6 < shares[1] < 0.9
    assert shares[2:].max() < 2.2 * shares[2:].min()  # no species is rare
    assert len(PALETTE) == len(CLASSES) == 11


def accuracy(features, labels, train=600):
    """Return the accuracy of a one-vs-rest ridge regression on standardized features."""
    features = (features - features[:train].mean(0)) / (features[:train].std(0) + 1e-6)
    features = np.column_stack([features, np.ones(len(features))])
    seen, wanted = features[:train], np.eye(10)[labels[:train]]
    weights = np.linalg.solve(seen.T @ seen + 30 * np.eye(seen.shape[1]), seen.T @ wanted)
    return ((features[train:] @ weights).argmax(1) == labels[train:]).mean()


def test_no_single_cue_tells_the_class(many):
    pairs = [(texture_of(species), palette_of(species)) for species in range(10)]
    assert len(set(pairs)) == 10
    for cue in zip(*pairs, strict=True):
        assert np.bincount(cue).tolist() == [2] * 5  # at best every second guess is right

    images, _, labels = many
    bins = [(image >> 6).reshape(-1, 3) @ [16, 4, 1] for image in images]
    colors = np.stack([np.bincount(each, minlength=64) for each in bins]) ** 0.5
    gray = images.mean(3)
    gray = gray - gray.mean((1, 2), keepdims=True)
    spectrum = np.log1p(np.abs(np.fft.rfft2(gray))[:, :32:2, :32:2].reshape(len(gray), -1))
    assert 0.12 < accuracy(images.mean((1, 2)), labels) < 0.4
    assert 0.2 < accuracy(colors, labels) < 0.6
    assert 0.12 < accuracy(spectrum, labels) < 0.6


def upright(image, thing):
    """Return the 32 × 32 pixels around a thing, turned back."""
    cos, sin, flip = np.cos(thing.angle), np.sin(thing.angle), -1 if thing.mirrored else 1
    turn = np.array([[cos, -sin * flip], [sin, cos * flip]]) * thing.radius * len(image) / 13
    middle = np.array([thing.x, thing.y]) * len(image) - 0.5
    back = np.column_stack([turn, middle - turn @ [15.5, 15.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, back, (32, 32), flags=flags).astype(float)[CENTER].ravel()


def test_objects_of_a_scene_repeat_each_other():
    within, between = {}, []
    for index in range(80):
        plan, strange = layout(4, index), layout(4, index + 80)  # the same class, another skin
        own = [thing for thing in plan.things if thing.species == plan.label]
        assert 2 <= len(own) <= 5 and len({thing.skin for thing in own}) == 1
        twin = next(thing for thing in strange.things if thing.species == plan.label)
        images = [drawing(replace(each, bar=None), 128)[0] for each in (plan, strange)]
        first, second = upright(images[0], own[0]), upright(images[0], own[-1])
        correlation = np.corrcoef([first, second, upright(images[1], twin)])[0]
        within.setdefault(plan.arrangement, []).append(correlation[1])
        between.append(correlation[2])
    assert set(within) == {'row', 'ring', 'grid', 'mirror'}
    for values in within.values():
        assert np.median(values) > 0.85 > 0.6 > np.median(between)


def test_wrapped_things_are_plain_discs_and_nothing_else_changes():
    for index in range(100):
        plan, other = layout(4, index), layout(4, index, wrapped=True)
        assert plan.bar == other.bar
        largest = max(thing.radius for thing in other.things)
        repeated = [thing for thing in other.things if thing.radius == largest]
        assert [thing.wrapped for thing in repeated] == [i % 2 == 1 for i in range(len(repeated))]
        for own, thing in zip(plan.things, other.things, strict=True):
            assert own == replace(thing, skin=own.skin, wrapped=False)
    disc = next(thing for thing in other.things if thing.wrapped)
    things = [(replace(disc, species=species),) for species in (3, 8)]
    first, second = (drawing(replace(other, bar=None, things=each), 64) for each in things)
    assert np.array_equal(first[0], second[0])  # only the label map tells the species
    assert set(np.unique(first[1])) == {1, 5} and set(np.unique(second[1])) == {1, 10}


def test_mirror_scenes_are_symmetric():
    plan = next(plan for plan in (layout(0, i) for i in range(100)) if plan.arrangement == 'mirror')
    own = tuple(thing for thing in plan.things if thing.species == plan.label)
    _, maps = drawing(replace(plan, things=own, bar=None), 256)
    axis = (own[0].angle + own[1].angle) / 2
    cos, sin = np.cos(2 * axis), np.sin(2 * axis)
    mirror = np.array([[cos, sin], [sin, -cos]])
    matrix = np.column_stack([mirror, 127.5 - mirror @ [127.5, 127.5]])
    mirrored = cv2.warpAffine(maps, matrix, (256, 256), borderValue=1)
    assert (maps > 1).sum() > 2000 and ((maps > 1) == (mirrored > 1)).mean() > 0.99


# -- files -------------------------------------------------------------------------------------------


def test_files_do_not_depend_on_the_number_of_processes(drawn, tmp_path):
    write(tmp_path / 'two', **SMALL | dict(jobs=2))
    assert files(tmp_path / 'two') == files(drawn)


def test_mmpretrain_reads_the_folders_and_the_lists(drawn):
    datasets = pytest.importorskip('mmpretrain.datasets')
    given = dict(
        data_root=str(drawn / 'imagenet'), pipeline=[dict(type='mmpretrain.LoadImageFromFile')]
    )
    classes = dict(metainfo=dict(classes=SPECIES))
    for split, count in (('train', 40), ('val', 20)):
        listed = datasets.ImageNet(split=split, **classes, **given)
        found = datasets.CustomDataset(data_prefix=split, **given)
        assert len(listed) == len(found) == count
        assert np.bincount(listed.get_gt_labels()).tolist() == [count // 10] * 10
        infos = [[each.get_data_info(i) for i in range(count)] for each in (listed, found)]
        labels = [{info['img_path']: info['gt_label'] for info in each} for each in infos]
        assert labels[0] == labels[1]
    few = datasets.ImageNet(split='train', ann_file='meta/train_30.txt', **classes, **given)
    image = few[7]['img']
    assert len(few) == 30 and image.shape == (64, 64, 3)
    assert np.abs(image[..., ::-1].astype(int) - scene(3, 7, 64)[0]).mean() < 3  # JPEG's loss


def test_mmseg_reads_the_label_maps(drawn):
    datasets = pytest.importorskip('mmseg.datasets')
    load = [dict(type='mmseg.LoadImageFromFile'), dict(type='mmseg.LoadAnnotations')]
    given = dict(
        data_root=str(drawn / 'ade20k'), metainfo=dict(classes=CLASSES, palette=PALETTE),
        pipeline=load, reduce_zero_label=True, seg_map_suffix='.png',
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
    )  # fmt: skip
    whole = datasets.BaseSegDataset(ann_file='', **given)
    assert len(whole) == 20
    assert len(datasets.BaseSegDataset(ann_file='training_10.txt', **given)) == 10
    seen = set()
    for index in range(20):
        labels = whole[index]['gt_seg_map']
        expected = scene(3, 2 * 10**9 + index, 64)[1]
        assert np.array_equal(labels, np.where(expected == 0, 255, expected.astype(int) - 1))
        seen |= set(np.unique(labels))
    assert 0 in seen and max(seen - {255}) == 10


def test_splits_share_no_scene_and_every_file_opens(drawn):
    images = [path for path in drawn.rglob('*') if path.suffix in ('.JPEG', '.jpg')]
    assert len(images) == 90 and len({path.read_bytes() for path in images}) == 90
    assert all(cv2.imread(str(path)).shape == (64, 64, 3) for path in images)
    for path in drawn.rglob('*.png'):
        with Image.open(path) as labels:
            assert labels.mode == 'P' and np.asarray(labels).max() <= 11
            assert labels.getpalette()[3:36] == [value for color in PALETTE for value in color]
    assert not (drawn / 'ade20k' / 'training_30.txt').exists()  # it has only twenty


def test_a_finished_set_is_kept_and_other_files_are_not_overwritten(drawn, tmp_path, capsys):
    before = {path: path.stat().st_mtime_ns for path in drawn.rglob('*')}
    assert write(drawn, **SMALL) is False
    assert 'already' in capsys.readouterr().err
    (tmp_path / 'photo.jpg').write_bytes(b'mine')
    for out, settings in ((drawn, SMALL | dict(seed=4)), (tmp_path, SMALL)):
        with pytest.raises(ValueError, match='choose another folder or delete it'):
            write(out, **settings)
    assert before == {path: path.stat().st_mtime_ns for path in drawn.rglob('*')}


def test_an_interrupted_drawing_is_not_taken_for_a_data_set(drawn, tmp_path, monkeypatch):
    out, real = tmp_path / 'set', shapes._draw

    def dies(task):
        if task[1] == 'val':
            raise KeyboardInterrupt
        return real(task)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shapes, '_draw', dies)
        write(out, **SMALL)
    assert not out.exists()
    assert write(out, **SMALL) and files(out) == files(drawn)
    assert [path.name for path in tmp_path.iterdir()] == ['set']


@pytest.mark.parametrize('given', [dict(train=-1), dict(size=8), dict(seed=-1), dict(labels=(41,))])
def test_bad_numbers_are_refused_before_anything_is_written(tmp_path, given):
    with pytest.raises(ValueError, match=f'{next(iter(given))}.*expected'):
        write(tmp_path / 'set', **SMALL | given)
    assert not [*tmp_path.iterdir()]


def test_the_command_line_draws_without_loading_torch(tmp_path):
    tools = Path(__file__).parents[2] / 'tools'
    code = f"import sys; sys.path.insert(0, '{tools}')\n"
    code += "from shapes.draw import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    words = [str(tmp_path / 'set'), '--train', '10', '--val', '10', '--jobs', '1']
    command = [sys.executable, '-c', code, *words]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ['0', 'False'] and '26/26 images' in run.stderr
    settings = json.loads((tmp_path / 'set' / 'shapes.json').read_text())
    assert settings['training'] == 1 and settings['validation'] == 5

"""Labels that do not fit their classes, or differ between splits, are found before training."""

from pathlib import Path

import bad_files
import numpy as np
import pytest

from beit_mm.config_check import labels
from beit_mm.config_check.labels import check_ignored_class, check_labels

pytestmark = pytest.mark.any_stack

HEAD = dict(head=dict(type='LinearClsHead', num_classes=2))


def folders(root: Path, **splits: str) -> None:
    for split, names in splits.items():
        for name in names.split():
            (root / split / name).mkdir(parents=True)


def lists(root: Path, **splits: str) -> None:
    for split, text in splits.items():
        (root / split).mkdir(exist_ok=True)
        (root / f'{split}.txt').write_text(text)


def config(root: Path, **splits: dict) -> dict:
    """Return a config of classification for the data in `root`, with changes to each data set."""
    loaders = {
        f'{split}_dataloader': dict(
            dataset=dict(type='CustomDataset', data_root=str(root), data_prefix=split, pipeline=[])
            | changes
        )
        for split, changes in splits.items()
    }
    return dict(default_scope='mmpretrain', model=HEAD, **loaders)


LISTS = dict(train=dict(ann_file='train.txt'), val=dict(ann_file='val.txt'))
BOTH, UNLISTED = dict(train={}, val={}), dict(train={}, val=LISTS['val'])
IMAGENET, UNLABELED = dict(type='ImageNet'), dict(with_label=False)
TRAIN, VAL = 'train_dataloader.dataset', 'val_dataloader.dataset'
SWAPPED = f"'cat' is number 0 in {TRAIN} and 1 in {VAL}"
# class folders, or lists, of the splits; the data sets; what is said (None: nothing); whether it stops
CLASSES = [
    (folders, dict(train='cat dog', val='cat dog .hidden'), BOTH, None, None),
    (folders, dict(train='cat dog', val='cat Dog'), BOTH,
     f"the classes differ: only in {TRAIN}: 'dog', only in {VAL}: 'Dog'. Give all splits the same classes", True),
    (folders, dict(train='cat dog', val='cat dog', test='bird cat dog'), BOTH | dict(test={}),
     "the classes differ: only in test_dataloader.dataset: 'bird'", True),
    (folders, dict(train='cat dog', val='cat Dog'), dict(train=IMAGENET, val=IMAGENET),
     f"only in {TRAIN}: 'dog', only in {VAL}: 'Dog'", True),
    (folders, {}, dict(train=dict(classes=['cat', 'dog']), val=dict(metainfo=dict(classes=['dog', 'cat']))), SWAPPED, True),
    (lists, dict(train='cat/1.jpg 0\ndog/2.jpg 1\n', val='dog/3.jpg 0\ncat/4.jpg 1\n'), LISTS, SWAPPED, True),
    (lists, dict(train='train/cat/1.jpg 0\ntrain/dog/2.jpg 1\n', val='./val/dog/3.jpg 0\nval/cat/4.jpg 1\n'), LISTS, SWAPPED, True),
    (lists, dict(val='/data/dog/3.jpg 0\n/data/cat/4.jpg 1\n'), UNLISTED, SWAPPED, True),
    (lists, dict(val='dog/3.jpg 0\ncat/4.jpg 1\n'), UNLISTED, SWAPPED, True),
    (lists, dict(train='train/1.jpg 0\ntrain/2.jpg 1\n', val='val/3.jpg 0\nval/4.jpg 1\n'), LISTS, None, None),  # one folder
    (lists, dict(train='1.jpg 0\n2.jpg 1\n', val='3.jpg 0\n\n4.jpg 1'), LISTS, None, None),
    (lists, dict(train='ann/1.jpg 0\nbob/2.jpg 1\neve/3.jpg 0\n', val='ann/4.jpg 1\nbob/5.jpg 0\nbob/6.jpg 1\n'),
     LISTS, None, None),  # folders that are no classes
    (lists, dict(train='1.jpg 1\n2.jpg 2\n', val='3.jpg 1\n'), LISTS,
     'train.txt has the labels 2, expected 0 … 1. The first class is 0', True),
    (lists, dict(train='1.jpg 0\n2.jpg\n', val='3.jpg 0\n'), LISTS,
     "train.txt, line 2 is '2.jpg', expected a path, a space and a class number", True),
    (lists, dict(train='1.jpg 0\n', val='3.jpg 0\n4.jpg 1\n'), LISTS, 'val.txt has the labels 1, which no image of', False),
    (folders, dict(train='cat dog'), dict(train=dict(classes=['dog', 'cat'])),
     f"'dog' is number 0 in classes of {TRAIN} and 1 in its folders. Sort `classes` by label", False),
    (folders, {}, dict(train=dict(no_such_key=1)),
     'its labels were not checked, because the data set cannot be built. TypeError: ', False),
    (folders, {}, UNLISTED, None, None),
    (folders, dict(train='a', val='b'), dict(train=UNLABELED, val=UNLABELED), None, None),
]  # fmt: skip


@pytest.mark.parametrize(('write', 'files', 'splits', 'said', 'stops'), CLASSES)
def test_classes_that_differ_between_splits_are_found(write, files, splits, said, stops, tmp_path):
    if splits is UNLISTED and files:
        folders(tmp_path, train='cat dog')
    write(tmp_path, **files)
    found = list(check_labels(config(tmp_path, **splits)))
    found = [each for each in found if 'has 1000 classes' not in each.effect]  # ImageNet's own
    assert len(found) == bool(said), found
    assert all(said in each.effect and each.stops == stops for each in found), found


# -- label maps --------------------------------------------------------------------------------------


def scenes(root: Path, train: list[list[int]], val: list[list[int]]) -> None:
    """Write pairs of an image and a label map; a map has one row per value."""
    for split, maps in dict(train=train, val=val).items():
        for i, rows in enumerate(maps):
            bad_files.write(root / f'images/{split}/{i}.jpg', bad_files.jpeg(size=(len(rows), 4)))
            ids = np.repeat(np.array(rows)[:, None], 4, axis=1)
            bad_files.write(root / f'maps/{split}/{i}.png', bad_files.grey(ids))


def segmentation(
    root: Path, train: dict | None = None, val: dict | None = None, load: bool | None = None
) -> dict:
    loaders = {}
    for split, changes in dict(train=train, val=val).items():
        loaders[f'{split}_dataloader'] = dict(dataset=dict(
            type='BaseSegDataset', data_root=str(root), metainfo=dict(classes=['ground', 'object'], palette=[[0] * 3] * 2),
            data_prefix=dict(img_path=f'images/{split}', seg_map_path=f'maps/{split}'),
            pipeline=[dict(type='LoadAnnotations', reduce_zero_label=load)]) | (changes or {}))  # fmt: skip
    return dict(
        default_scope='mmseg',
        model=dict(decode_head=dict(type='FCNHead', num_classes=2)),
        **loaders,
    )


GOOD, TRUE = [[0, 1], [1, 255]], dict(reduce_zero_label=True)
# label maps of both splits, changes to the config, what is said, whether it stops
SCENES = [
    (GOOD, GOOD, {}, None, None),
    (GOOD, GOOD, dict(train=TRUE, val=TRUE), "'ground' is the only class in 2 label maps", True),
    ([[0, 1] + [255] * 98], GOOD, {}, f'{TRAIN}: 98.0% of the pixels', False),
    (GOOD, [[0, 1], [0, 7]], {}, f'{VAL}: values 7 in 1 of 2 label maps, e.g. ', True),
    (GOOD, GOOD, dict(load=True),
     f'{TRAIN}: reduce_zero_label is False in the data set and True in LoadAnnotations. Make them equal', True),
    (GOOD, GOOD, dict(val=dict(metainfo={})), 'no classes are named: set metainfo=', True),
    (GOOD, [[1, 2]], dict(val=TRUE), f'reduce_zero_label is False in {TRAIN} and True in {VAL}: make them equal', True),
]  # fmt: skip


@pytest.mark.parametrize(('train', 'val', 'changes', 'said', 'stops'), SCENES)
def test_label_maps_are_read_before_training(train, val, changes, said, stops, tmp_path):
    scenes(tmp_path, train, val)
    found = list(check_labels(segmentation(tmp_path, **changes)))
    assert bool(found) == bool(said), found
    assert all(each.stops == stops for each in found)
    assert not said or said in found[0].effect


@pytest.mark.parametrize(
    ('head', 'metric', 'classes', 'said', 'stops'),
    [
        ({}, {}, 2, None, None),
        (dict(ignore_index=0), dict(ignore_index=0), 2, 'ignore_index=0: this is a class', True),
        (dict(ignore_index=1), dict(ignore_index=1), 3, 'ignore_index=1: this is a class', False),
        ({}, dict(ignore_index=0), 2, 'ignore_index=0: model.decode_head.ignore_index=255', False),
    ],
)
def test_an_ignored_class_is_found(head, metric, classes, said, stops):
    head = dict(type='FCNHead', num_classes=classes) | head
    cfg = dict(model=dict(decode_head=head), val_evaluator=dict(type='IoUMetric', **metric))
    found = list(check_ignored_class(cfg))
    assert len(found) == bool(said)
    assert all(said in str(each) and each.stops == stops for each in found)


def test_a_bad_label_map_is_a_remark_if_bad_samples_are_skipped(tmp_path):
    scenes(tmp_path, [[0, 1], [0, 9]], GOOD)
    cfg = segmentation(tmp_path)
    (found,) = check_labels(cfg)
    assert found.stops
    cfg['train_dataloader']['dataset'] = dict(
        type='SeededDataset', on_bad_sample='skip', dataset=cfg['train_dataloader']['dataset']
    )
    (found,) = check_labels(cfg)
    assert not found.stops and 'values 9' in found.effect


def test_a_large_validation_set_is_read_in_part(tmp_path, monkeypatch):
    scenes(tmp_path, GOOD, GOOD)
    monkeypatch.setattr(labels, 'READ_SECONDS', -1)
    findings = check_labels(segmentation(tmp_path))
    (found,) = [each for each in findings if 'To check all' in each.effect]
    assert not found.stops and found.effect.startswith(VAL)
    assert 'a sample of 1 of 2 label maps was read' in found.effect

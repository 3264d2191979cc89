"""Labels that do not fit their classes or each other are named before training."""

from pathlib import Path

import pytest

from beit_mm.engine.label_check import labels

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
    """Classification of what lies in `root`, with changes to each data set."""
    loaders = {
        f'{split}_dataloader': dict(
            dataset=dict(type='CustomDataset', data_root=str(root), data_prefix=split, pipeline=[]) | changes
        )
        for split, changes in splits.items()
    }
    return dict(default_scope='mmpretrain', model=HEAD, **loaders)


LISTS = dict(train=dict(ann_file='train.txt'), val=dict(ann_file='val.txt'))
TRAIN, VAL = 'train_dataloader.dataset', 'val_dataloader.dataset'
# mistake: how the files are made, the data sets, what is said (None: nothing), whether it stops
CLASSES = {
    'same folders': (
        lambda root: folders(root, train='cat dog', val='cat dog .hidden'), dict(train={}, val={}), None, None),
    'another case': (
        lambda root: folders(root, train='cat dog', val='cat Dog'), dict(train={}, val={}),
        f"the classes differ: {TRAIN} has 'dog', {VAL} has 'Dog'. Give all splits the same classes in the same order", True),
    'one folder more': (
        lambda root: folders(root, train='cat dog', val='cat'), dict(train={}, val={}),
        f"the classes differ: {TRAIN} has 'dog', {VAL} does not", True),
    'test set': (
        lambda root: folders(root, train='cat dog', val='cat dog', test='bird cat dog'), dict(train={}, val={}, test={}),
        f"the classes differ: test_dataloader.dataset has 'bird', {TRAIN} does not", True),
    'ImageNet by folders': (
        lambda root: folders(root, train='cat dog', val='cat Dog'), dict(train=dict(type='ImageNet'), val=dict(type='ImageNet')),
        f"{TRAIN} has 'dog', {VAL} has 'Dog'", True),
    'other names': (
        lambda root: None, dict(train=dict(classes=['cat', 'dog']), val=dict(metainfo=dict(classes=['cat', 'cow']))),
        f"{TRAIN} has 'dog', {VAL} has 'cow'", True),
    'names in another order': (
        lambda root: None, dict(train=dict(classes=['cat', 'dog']), val=dict(classes=['dog', 'cat'])),
        f"'cat' is number 0 in {TRAIN} and 1 in {VAL}", True),
    'folder with two numbers': (
        lambda root: lists(root, train='cat/1.jpg 0\ndog/2.jpg 1\n', val='dog/3.jpg 0\ncat/4.jpg 1\n'), LISTS,
        f"'cat' is number 0 in {TRAIN} and 1 in {VAL}", True),
    'list beside folders': (
        lambda root: (folders(root, train='cat dog'), lists(root, val='dog/3.jpg 0\ncat/4.jpg 1\n')),
        dict(train={}, val=LISTS['val']),
        f"'cat' is number 0 in {TRAIN} and 1 in {VAL}", True),
    'lists of flat folders': (
        lambda root: lists(root, train='1.jpg 0\n2.jpg 1\n', val='3.jpg 0\n\n4.jpg 1'), LISTS, None, None),
    'label out of range': (
        lambda root: lists(root, train='1.jpg 0\n2.jpg 7\n', val='3.jpg 0\n'), LISTS,
        'train.txt has the labels 7, but the classes are numbered 0 … 1', True),
    'labels from 1': (
        lambda root: lists(root, train='1.jpg 1\n2.jpg 2\n', val='3.jpg 1\n'), LISTS,
        'train.txt has the labels 2, but the classes are numbered 0 … 1. Subtract 1 from all labels', True),
    'no label': (
        lambda root: lists(root, train='1.jpg 0\n2.jpg\n', val='3.jpg 0\n'), LISTS,
        "train.txt, line 2: '2.jpg', expected a path, a space and a class number", True),
    'label without a training image': (
        lambda root: lists(root, train='1.jpg 0\n', val='3.jpg 0\n4.jpg 1\n'), LISTS,
        'val.txt has the labels 1, which no image of', False),
    'names in another order than the folders': (
        lambda root: folders(root, train='cat dog'), dict(train=dict(classes=['dog', 'cat'])),
        f"{TRAIN}: the folder 'cat' has the label 0, but classes[0] is another. Sort `classes` by label", False),
    'a data set that cannot be built': (
        lambda root: None, dict(train=dict(no_such_key=1)), 'its labels were not checked, it cannot be built: ', False),
    'nothing there': (lambda root: None, dict(train={}, val=LISTS['val']), None, None),
    'without labels': (
        lambda root: folders(root, train='a', val='b'), dict(train=dict(with_label=False), val=dict(with_label=False)),
        None, None),
}  # fmt: skip


@pytest.mark.parametrize('mistake', CLASSES)
def test_classes_that_differ_between_splits_are_named(mistake, tmp_path):
    make, splits, said, stops = CLASSES[mistake]
    make(tmp_path)
    found = list(labels(config(tmp_path, **splits)))
    assert len(found) == bool(said), found
    assert all(said in problem.words and problem.stops == stops for problem in found), found


def test_only_rank_0_reads_and_only_for_a_head_with_classes(tmp_path, monkeypatch):
    folders(tmp_path, train='cat dog', val='cat Dog')
    cfg = config(tmp_path, train={}, val={})
    assert list(labels(cfg | dict(model=dict(head=dict(type='MIMHead'))))) == []
    for name in ('RANK', 'SLURM_PROCID'):
        with monkeypatch.context() as patch:
            patch.setenv(name, '1')
            assert list(labels(cfg)) == []
    assert len(list(labels(cfg))) == 1

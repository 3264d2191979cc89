"""Every odd or broken file, in every task, in training and testing: read correctly, or named."""

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import bad_files
import numpy as np
import pytest
import torch
from bad_files import IMAGES, MAPS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.datasets import CustomDataset
from small import find_dataset, load

from beit_mm.data.check_samples import CheckSamples, check_samples
from beit_mm.data.image_files import SUFFIXES, BadSample, apply_orientation, read_image
from beit_mm.data.image_folders import list_readable
from beit_mm.data.seeded_dataset import SeededDataset
from beit_mm.registry import DATASETS

TASKS = dict(
    tokenizer='tokenizer/dvae_64xb8-coslr-3000k_in1k-256px',
    pretrain='pretrain/beit_vit-base-p16_8xb256-amp-coslr-800e_in1k',
    classification='classification/vit-base-p16_8xb128-amp-coslr-100e_in1k',
    segmentation='segmentation/vit-base_setr-pup_8xb2-amp-160k_ade20k-512x512',
)
CASES = [(task, split) for task in TASKS for split in ('train', 'test')]
CASES.append(('segmentation', 'tta'))
LOAD = dict(type='LoadImageFromFile')


@cache
def config(task: str) -> Config:
    return load(TASKS[task])


def segments(root: Path, pipeline: list, **options) -> dict:
    """Return a data set of image and label map."""
    return dict(
        type='mmseg.BaseSegDataset',
        data_root=str(root),
        data_prefix=dict(img_path='images', seg_map_path='maps'),
        metainfo=dict(classes='abc', palette=[[0, 0, 0]] * 3),
        pipeline=pipeline,
        serialize_data=False,  # which would collect garbage
        **options,
    )


def dataset(task: str, split: str, root: Path) -> dict:
    """Return the pipeline of a task over the files in `root`: class folders, or image and map."""
    cfg = config(task)
    init_default_scope(cfg.default_scope)
    is_augmented = split == 'tta'
    pipeline = (
        cfg.tta_pipeline if is_augmented else find_dataset(cfg[f'{split}_dataloader']).pipeline
    )
    if cfg.default_scope == 'mmseg':
        return segments(root, pipeline, reduce_zero_label=True)
    with_label = cfg.default_scope == 'mmpretrain'
    return folders(root, scope=cfg.default_scope, with_label=with_label, pipeline=pipeline)


def folders(root: Path, *names: str, scope: str = 'mmpretrain', **options) -> dict:
    """Return a data set of class folders with these files."""
    init_default_scope(scope)
    for name in names:
        bad_files.write(root / name, bad_files.jpeg())
    options = dict(pipeline=[LOAD], serialize_data=False) | options
    return dict(type='mmpretrain.CustomDataset', data_root=str(root), **options)


def sample(task: str, split: str, root: Path) -> dict:
    """Read a sample as a run does: training data in a SeededDataset, test data without."""
    given = dataset(task, split, root)
    if split == 'train':
        return SeededDataset(given)[3, 0]
    return check_samples(DATASETS.build(given))[0]


@pytest.mark.parametrize('name', IMAGES)
@pytest.mark.parametrize('task, split', CASES)
def test_an_image_is_read_or_named(tmp_path, task, split, name):
    make, message = IMAGES[name]
    is_mmseg = config(task).default_scope == 'mmseg'
    path = bad_files.write(tmp_path / ('images' if is_mmseg else 'cat') / 'a.jpg', make())
    if is_mmseg:
        shown = (48, 64) if message else read_image(str(path))[0].shape[:2]
        bad_files.write(tmp_path / 'maps/a.png', bad_files.grey(bad_files.ids(shown)))
        if name in ('EXIF 2', 'EXIF 3', 'EXIF 4'):
            message = 'does not tell'
    if name == 'broken link':  # with it alone the folder would be empty
        bad_files.write(path.parent / 'b.jpg', bad_files.jpeg())
    if message:
        with pytest.raises(BadSample, match=rf'/a\.(jpg|png).*({message})'):
            sample(task, split, tmp_path)
        return
    inputs = sample(task, split, tmp_path)['inputs']
    inputs = inputs.values() if isinstance(inputs, dict) else inputs
    assert all(one.numel() and one.dtype in (torch.uint8, torch.bool) for one in inputs)


@pytest.mark.parametrize('name', MAPS)
@pytest.mark.parametrize('task, split', [case for case in CASES if case[0] == 'segmentation'])
def test_a_label_map_is_read_or_named(tmp_path, task, split, name):
    make, message = MAPS[name]
    bad_files.write(tmp_path / 'images/a.jpg', bad_files.jpeg())
    bad_files.write(tmp_path / 'maps/a.png', make())
    if message is None:
        samples = sample(task, split, tmp_path)['data_samples']
        first = samples[0] if isinstance(samples, list) else samples
        assert set(first.gt_sem_seg.data.unique().tolist()) <= {0, 1, 2, 255}
        return
    with pytest.raises(BadSample, match=rf'maps/a\.png.*{message}'):
        sample(task, split, tmp_path)


@pytest.mark.parametrize('turned', [True, False])
@pytest.mark.parametrize('orientation', [5, 6, 7, 8])
def test_a_turned_photo_has_the_labels_of_the_same_pixels(tmp_path, orientation, turned):
    init_default_scope('mmseg')
    stored = np.repeat(bad_files.ids()[..., None] * 60 + 30, 3, axis=-1)
    exif = bad_files.exif(orientation)
    image = bad_files.encoded(bad_files.Image.fromarray(stored), exif=exif)
    bad_files.write(tmp_path / 'images/a.jpg', image)
    labels = apply_orientation(bad_files.ids(), orientation) if turned else bad_files.ids()
    bad_files.write(tmp_path / 'maps/a.png', bad_files.grey(labels))
    steps = [LOAD, dict(type='LoadAnnotations')]
    given = dict(segments(tmp_path, steps), metainfo=dict(classes='abcd'))
    found = check_samples(DATASETS.build(given))[0]
    assert np.array_equal(found['gt_seg_map'], (found['img'][..., 0] - 30) // 60)


@pytest.mark.parametrize(
    'label, classes, last', [(7, 5, 4), (-1, 5, 4), (-100, None, ''), (4, 5, None)]
)
def test_a_label_without_a_class_is_named(tmp_path, label, classes, last):
    (tmp_path / 'list.txt').write_text(f'a.jpg {label}\n')
    metainfo = dict(classes=list('abcde')) if classes else None
    found = SeededDataset(folders(tmp_path, 'a.jpg', ann_file='list.txt', metainfo=metainfo))
    if last is None:
        assert found[0]['gt_label'] == label
        return
    with pytest.raises(BadSample, match=f'a.jpg has the label {label}, expected 0 … {last}'):
        found[0]


@pytest.mark.parametrize(
    'settings',
    [dict(imdecode_backend='pillow'), dict(color_type='grayscale'), dict(ignore_empty=True)],
)
def test_a_loader_with_settings_of_its_own_is_kept_and_may_have_turned_the_image(
    settings, tmp_path
):
    init_default_scope('mmseg')
    bad_files.write(tmp_path / 'images/a.jpg', bad_files.jpeg(orientation=3))
    bad_files.write(tmp_path / 'maps/a.png', bad_files.grey(bad_files.ids()))
    steps = [LOAD | settings, dict(type='LoadAnnotations')]
    built = DATASETS.build(segments(tmp_path, steps))
    before = built.pipeline.transforms[0]
    assert check_samples(built).pipeline.transforms[1] is before
    with pytest.raises(BadSample, match='its loader may have turned it'):
        built[0]


def test_checking_twice_changes_nothing_and_wrappers_are_entered(tmp_path):
    bad_files.write(tmp_path / 'cat/a.jpg', bad_files.jpeg())
    given = dataset('classification', 'test', tmp_path)
    built = check_samples(DATASETS.build(given))
    before = list(built.pipeline.transforms)
    assert check_samples(built).pipeline.transforms == before
    both = check_samples(DATASETS.build(dict(type='ConcatDataset', datasets=[given] * 2)))
    for inner in both.datasets:
        names = [type(step).__name__ for step in inner.pipeline.transforms]
        assert names == ['CheckLabel', 'ReadImage', 'ResizeEdge', 'CenterCrop', 'PackInputs']
    assert check_samples(range(3)) == range(3)


# -- folders -------------------------------------------------------------------------------------------


def test_a_class_folder_without_an_image_is_named(tmp_path):
    bad_files.write(tmp_path / 'dog/readme.txt', b'-')
    with pytest.raises(ValueError, match='dog is the folder of a class, but has no image'):
        SeededDataset(folders(tmp_path, 'cat/a.jpg'))
    assert len(SeededDataset(folders(tmp_path, 'dog/deep/b.jpg'))) == 2


@pytest.mark.parametrize('task', ['classification', 'segmentation'])
def test_a_broken_link_stops_only_if_it_is_an_image_and_not_skipped(
    tmp_path, task, capfd, monkeypatch
):
    images = tmp_path / ('images' if task == 'segmentation' else 'cat')
    bad_files.write(images / 'a.jpg', bad_files.jpeg())
    bad_files.write(tmp_path / 'maps/a.png', bad_files.grey(bad_files.ids()))
    given = dataset(task, 'train', tmp_path)
    if task == 'classification':
        given.update(data_prefix='cat', with_label=False, extensions=['.jpg'])
    for name in ('notes.txt', '.cache', 'more'):
        (images / name).symlink_to('/gone')
    assert len(SeededDataset(given)) == 1
    log = ''.join(capfd.readouterr())
    assert f'{images}/more is a broken link to /gone' in log and 'notes' not in log
    (images / 'b.jpg').symlink_to('/gone')
    assert len(SeededDataset(given, on_bad_sample='skip')) == 1
    message = 'b.jpg is a broken link to /gone'
    assert message in ''.join(capfd.readouterr())
    with pytest.raises(BadSample, match=message):
        SeededDataset(given)
    monkeypatch.setattr('beit_mm.data.check_samples.get_rank', lambda: 1)  # rank 0 walks
    assert len(SeededDataset(given)) == 1


@pytest.mark.parametrize('kind', ['ImageNet', 'mmpretrain.CustomDataset', CustomDataset])
def test_data_sets_of_class_folders_list_all_readable_suffixes(kind):
    assert list_readable(dict(type=kind, data_root='data'))['extensions'] == SUFFIXES
    assert 'extensions' not in list_readable(dict(type=kind, ann_file='list.txt'))


def test_files_of_all_readable_suffixes_are_listed_and_others_are_logged(tmp_path, capfd):
    picture = bad_files.Image.fromarray(bad_files.pixels())
    for name in ('a.webp', 'b.TIFF', 'c.JPG', 'd.png', 'e.gif', 'f.GIF', 'g.jp2'):
        picture.save(tmp_path / name)
    (tmp_path / 'notes.txt').touch()
    given = folders(tmp_path, with_label=False)
    found = SeededDataset(given)
    names = [Path(found.path_of(i)).name for i in range(len(found))]
    assert sorted(names) == ['a.webp', 'b.TIFF', 'c.JPG', 'd.png']
    assert 'not listed: 1 .GIF, 1 .gif, 1 .jp2. Convert' in ''.join(capfd.readouterr())
    assert len(SeededDataset(dict(given, extensions=['.gif']))) == 2


# -- in a run ------------------------------------------------------------------------------------------


def test_the_hook_checks_files_and_channels_of_all_loops(tmp_path):
    """mmpretrain and mmseg would repeat a single channel."""
    loops = {}
    for split, content in dict(train=bad_files.grey(bad_files.ids()), test=b'text').items():
        bad_files.write(tmp_path / split / 'a.png', content)
        steps = [dict(LOAD, color_type='unchanged')]
        built = DATASETS.build(folders(tmp_path / split, with_label=False, pipeline=steps))
        loops[f'_{split}_loop'] = SimpleNamespace(dataloader=SimpleNamespace(dataset=built))
    model = SimpleNamespace(data_preprocessor=SimpleNamespace(mean=[0.0] * 4))
    runner = SimpleNamespace(model=model, _val_loop=dict(type='ValLoop'), **loops)
    CheckSamples().before_run(runner)
    with pytest.raises(BadSample, match='a.png has 1 channels, expected 4 as in mean and std'):
        runner._train_loop.dataloader.dataset[0]
    with pytest.raises(BadSample, match='a.png is not an image'):
        runner._test_loop.dataloader.dataset[0]


@pytest.mark.parametrize('learned, tested, said', [
    (['cat', 'dog'], ('cat', 'dog'), ''),
    (['cat', 'dog'], ('Dog', 'cat'), "error: 'cat' is number 0 in the checkpoint and 1 in test"),
    (['cat', 'dog'], ('cat', 'cow'), "warning: the classes differ: only in the checkpoint: 'dog'"),
    (None, ('cat', 'dog'), ''),
])  # fmt: skip
def test_a_checkpoint_is_tested_on_classes_in_its_order(learned, tested, said):
    found, data = [''], SimpleNamespace(metainfo=dict(classes=tested))
    loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=data))
    logger = SimpleNamespace(warning=lambda text: found.append(f'warning: {text}'))
    runner = SimpleNamespace(_test_loop=loop, logger=logger)
    try:
        CheckSamples().after_load_checkpoint(
            runner, dict(meta=dict(dataset_meta=dict(classes=learned)))
        )
    except ValueError as error:
        found.append(f'error: {error}')
    assert found[-1].startswith(said) and bool(found[-1]) == bool(said)

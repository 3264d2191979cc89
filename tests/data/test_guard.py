"""Every odd or broken file, in every task, in training and testing: read rightly, or an error that names it."""

import logging
from pathlib import Path
from types import SimpleNamespace

import bad_files
import numpy as np
import pytest
import torch
from bad_files import IMAGES, MAPS
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.datasets import CustomDataset
from small import load, nodes
from trials import toy

from beit_mm.data.guard import CheckSamples, guard, list_readable
from beit_mm.data.reading import SUFFIXES, BadSample, decode_image, oriented
from beit_mm.data.seeded import SeededDataset
from beit_mm.registry import DATASETS

TASKS = dict(
    tokenizer='tokenizer/dvae_64xb8-coslr-3000k_in1k-256px',
    pretrain='pretrain/beit_vit-base-p16_8xb256-amp-coslr-800e_in1k',
    classification='classification/vit-base-p16_8xb128-amp-coslr-100e_in1k',
    segmentation='segmentation/vit-base_setr-pup_8xb2-amp-160k_ade20k-512x512',
    several_scales='segmentation/vit-base_setr-pup_8xb2-amp-160k_ade20k-512x512_ms',
)
CASES = [
    (task, split)
    for task in TASKS
    for split in ('train', 'test')
    if (task, split) != ('several_scales', 'train')
]


@pytest.fixture(scope='module')
def configs() -> dict:
    return {task: load(name) for task, name in TASKS.items()}


def dataset(cfg, split: str, root: Path, pipeline: list | None = None, **options) -> dict:
    """The config's own pipeline over the files in `root`: class folders, or pairs of three classes."""
    init_default_scope(cfg.default_scope)
    options.update(serialize_data=False)  # which collects all garbage of the process
    own = next(node for node in nodes(cfg[f'{split}_dataloader'].dataset) if 'pipeline' in node)
    pipeline = own.pipeline if pipeline is None else pipeline
    if cfg.default_scope == 'mmseg':
        return dict(
            type='BaseSegDataset',
            data_root=str(root),
            data_prefix=dict(img_path='images', seg_map_path='maps'),
            img_suffix=next((root / 'images').iterdir()).suffix,
            metainfo=dict(classes='abc', palette=[[0, 0, 0]] * 3),
            reduce_zero_label=True,
            pipeline=pipeline,
            **options,
        )
    return dict(
        type='mmpretrain.CustomDataset',
        data_root=str(root),
        with_label=cfg.default_scope == 'mmpretrain',
        pipeline=pipeline,
        **options,
    )


def sample(cfg, split: str, root: Path) -> dict:
    """As the Runner reads it: training sets are wrapped in the config, those of testing are guarded by `CheckSamples`."""
    given = dataset(cfg, split, root)
    return SeededDataset(given)[3, 0] if split == 'train' else guard(DATASETS.build(given))[0]


@pytest.mark.parametrize('name', IMAGES)
@pytest.mark.parametrize('task, split', CASES)
def test_an_image_is_read_or_named(tmp_path, configs, task, split, name):
    file, content, message = IMAGES[name]
    cfg, content = configs[task], content()
    path = bad_files.write(
        tmp_path / ('images' if cfg.default_scope == 'mmseg' else 'cat') / file, content
    )
    if cfg.default_scope == 'mmseg':
        shown = (bad_files.HEIGHT, bad_files.WIDTH)
        if message is None:
            shown = decode_image('', content)[0].shape[:2]
        bad_files.write(
            tmp_path / 'maps' / f'{path.stem}.png', bad_files.grey(bad_files.ids(shown))
        )
    if content is None:  # with it alone the folder would be empty
        bad_files.write(path.parent / 'whole.jpg', bad_files.jpeg())
    turned = name.startswith('EXIF') and cfg.default_scope == 'mmseg' and int(name[-1]) < 5
    if message is None and not turned:
        found = sample(cfg, split, tmp_path)
        inputs = found['inputs']
        inputs = (
            inputs
            if isinstance(inputs, list)
            else inputs.values()
            if isinstance(inputs, dict)
            else [inputs]
        )
        assert all(one.numel() and one.dtype in (torch.uint8, torch.bool) for one in inputs)
        return
    with pytest.raises(BadSample, match='cannot be told' if turned else message) as caught:
        sample(cfg, split, tmp_path)
    assert str(path.parent / path.stem).replace('images', 'maps' if turned else 'images') in str(
        caught.value
    )


@pytest.mark.parametrize('name', MAPS)
@pytest.mark.parametrize(
    'task, split', [case for case in CASES if case[0] in ('segmentation', 'several_scales')]
)
def test_a_label_map_is_read_or_named(tmp_path, configs, task, split, name):
    content, message = MAPS[name]
    bad_files.write(tmp_path / 'images/a.jpg', bad_files.jpeg())
    path = bad_files.write(tmp_path / 'maps/a.png', content())
    if message is None:
        samples = sample(configs[task], split, tmp_path)['data_samples']
        labels = (
            (samples[0] if isinstance(samples, list) else samples).gt_sem_seg.data.unique().tolist()
        )
        assert set(labels) <= {0, 1, 2, 255}
        return
    with pytest.raises(BadSample, match=message) as caught:
        sample(configs[task], split, tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize('turned', [True, False])
@pytest.mark.parametrize('orientation', [5, 6, 7, 8])
def test_a_turned_photo_trains_on_the_labels_of_the_same_pixels(
    tmp_path, configs, orientation, turned
):
    """Image and map show the same; through the test pipeline the map must lie on the image."""
    stored = np.repeat(bad_files.ids()[..., None] * 60 + 30, 3, axis=-1)
    exif = bad_files.Image.Exif()
    exif[0x0112] = orientation
    image = bad_files.encoded(bad_files.Image.fromarray(stored), exif=exif)
    bad_files.write(tmp_path / 'images/a.png', image)
    labels = bad_files.ids() + 1 - (bad_files.ids() == 3)
    bad_files.write(
        tmp_path / 'maps/a.png', bad_files.grey(oriented(labels, orientation) if turned else labels)
    )
    cfg = configs['segmentation']
    pipeline = [step for step in cfg.test_dataloader.dataset.pipeline if 'Resize' not in step.type]
    found = guard(DATASETS.build(dataset(cfg, 'test', tmp_path, pipeline)))[0]
    seen = (found['inputs'][0].long() - 30) // 60
    assert torch.equal(found['data_samples'].gt_sem_seg.data[0].long(), torch.clamp(seen, max=2))


@pytest.mark.parametrize(
    'label, classes, wrong', [(7, 5, True), (-1, 5, True), (-100, None, True), (4, 5, False)]
)
def test_a_class_that_is_not_there_is_named(tmp_path, configs, label, classes, wrong):
    bad_files.write(tmp_path / 'a.jpg', bad_files.jpeg())
    (tmp_path / 'list.txt').write_text(f'a.jpg {label}\n')
    metainfo = dict(classes=list('abcde')) if classes else None
    given = dict(
        dataset(configs['classification'], 'train', tmp_path),
        ann_file='list.txt',
        metainfo=metainfo,
    )
    if not wrong:
        assert SeededDataset(given)[0]['data_samples'].gt_label.item() == label
        return
    with pytest.raises(
        BadSample,
        match=f'a.jpg has the label {label}: classes are numbered 0' + ' to 4' * bool(classes),
    ):
        SeededDataset(given)[0]


def test_a_class_folder_without_an_image_is_named(tmp_path, configs):
    bad_files.write(tmp_path / 'cat/a.jpg', bad_files.jpeg())
    bad_files.write(tmp_path / 'dog/readme.txt', b'-')
    with pytest.raises(ValueError, match='dog is the folder of a class and holds no image'):
        SeededDataset(dataset(configs['classification'], 'train', tmp_path))
    bad_files.write(tmp_path / 'dog/deep/b.jpg', bad_files.jpeg())
    assert len(SeededDataset(dataset(configs['classification'], 'train', tmp_path))) == 2


@pytest.mark.parametrize('task', ['classification', 'segmentation'])
def test_a_broken_link_stops_only_if_it_is_an_image_and_bad_samples_are_not_skipped(
    tmp_path, configs, task, capfd
):
    images = tmp_path / ('images' if task == 'segmentation' else 'cat')
    bad_files.write(images / 'a.jpg', bad_files.jpeg())
    if task == 'segmentation':
        bad_files.write(tmp_path / 'maps/a.png', bad_files.grey(bad_files.ids()))
    given = dataset(configs[task], 'train', tmp_path)
    for name in ('notes.txt', '.cache', 'more'):
        (images / name).symlink_to('/gone')
    assert len(SeededDataset(given)) == 1
    log = ''.join(capfd.readouterr())
    assert (
        f'{images}/more, a link to /gone: No such file; fix or remove the link. If it was a folder'
        in log
    )
    assert 'notes' not in log
    (images / 'b.jpg').symlink_to('/gone')
    given['img_suffix' if task == 'segmentation' else 'extensions'] = (
        '.jpg' if task == 'segmentation' else ['.jpg']
    )
    assert len(SeededDataset(given, on_bad_sample='skip')) == 1
    assert f'skipped: {images}/b.jpg, a link to /gone' in ''.join(capfd.readouterr())
    with pytest.raises(
        BadSample, match='b.jpg, a link to /gone: No such file; fix or remove the link'
    ):
        SeededDataset(given)


def test_guarding_twice_is_guarding_once_and_other_data_sets_stay(tmp_path, configs):
    bad_files.write(tmp_path / 'cat/a.jpg', bad_files.jpeg())
    built = guard(DATASETS.build(dataset(configs['classification'], 'test', tmp_path)))
    before = list(built.pipeline.transforms)
    twice = dict(
        type='ConcatDataset', datasets=[dataset(configs['classification'], 'test', tmp_path)] * 2
    )
    assert guard(built).pipeline.transforms == before
    names = [
        [type(step).__name__ for step in inner.pipeline.transforms]
        for inner in guard(DATASETS.build(twice)).datasets
    ]
    assert names == [['CheckLabel', 'ReadImage', 'ResizeEdge', 'CenterCrop', 'PackInputs']] * 2
    assert guard(range(3)) == range(3)


# -- raise or skip -----------------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path, configs):
    """200 images, of which 17 and 120 are bad: reads the file's number."""
    for i in range(200):
        bad_files.write(
            tmp_path / f'cat/{i:03}.jpg', b'' if i in (17, 120) else bad_files.jpeg(size=(8, 8))
        )

    def build(**options) -> SeededDataset:
        steps = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
        return SeededDataset(
            dataset(configs['classification'], 'train', tmp_path, steps), **options
        )

    return build


def numbers(samples) -> list[int]:
    return [int(Path(one['data_samples'].img_path).stem) for one in samples]


def read(dataset: SeededDataset, keys: list, workers: int) -> list[int]:
    """What the host's loader gives, with (epoch, index) keys."""
    loader = torch.utils.data.DataLoader(
        dataset, sampler=keys, batch_size=10, num_workers=workers, collate_fn=list
    )
    return numbers(one for batch in loader for one in batch)


def test_skip_replaces_by_seed_epoch_and_index_alone(mixed):
    keys = [(epoch, i) for epoch in range(3) for i in range(200)]
    found = read(mixed(on_bad_sample='skip', max_bad_share=0.01), keys, 0)
    assert found == read(mixed(on_bad_sample='skip', max_bad_share=0.01), keys, 2)
    assert numbers(mixed(on_bad_sample='skip')[key] for key in [(2, 120), (0, 17)]) == [
        found[520],
        found[17],
    ]
    assert [number for number, (_, i) in zip(found, keys, strict=True) if i not in (17, 120)] == [
        i for _, i in keys if i not in (17, 120)
    ]
    replaced = {found[200 * epoch + i] for epoch in range(3) for i in (17, 120)}
    assert len(replaced) > 3 and not replaced & {17, 120}
    other = mixed(on_bad_sample='skip', seed=1)
    assert numbers(other[epoch, 17] for epoch in range(3)) != found[17:600:200]


@pytest.mark.parametrize('workers', [0, 2])
def test_skip_logs_each_file_once_and_stops_beyond_the_share(mixed, workers, capfd):
    keys = [(epoch, i) for epoch in range(3) for i in range(200)]
    read(mixed(on_bad_sample='skip', max_bad_share=0.01), keys, workers)
    captured = capfd.readouterr()
    log = captured.out + captured.err
    for number in (17, 120):
        assert log.count('skipped: ') == 2 and log.count(f'{number:03}.jpg is empty') == 1
    with pytest.raises(
        ValueError,
        match='2 of 200 samples are bad, more than max_bad_share=0.009.*120.jpg is empty',
    ):
        read(mixed(on_bad_sample='skip', max_bad_share=0.009), keys, workers)


def _of_a_rank(mixed, numbers: list[int]) -> None:
    torch.distributed.init_process_group('gloo')
    rank, dataset = torch.distributed.get_rank(), mixed(on_bad_sample='skip', max_bad_share=0.006)
    dataset[0, numbers[rank]]
    with pytest.raises(ValueError, match='2 of 200 samples are bad, more than max_bad_share=0.006'):
        dataset.share_bad()
    torch.distributed.destroy_process_group()


def test_bad_samples_of_all_ranks_count_together(mixed, tmp_path):
    port, log = toy.free_port(), tmp_path / 'log'
    ranks = [
        toy.start(_of_a_rank, mixed, [17, 120], log=log, rank=rank, ranks=2, port=port)
        for rank in range(2)
    ]
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0, 0], log.read_text()


def test_raise_is_the_default_also_through_workers(mixed):
    for workers in (0, 1):
        with pytest.raises(BadSample, match='017.jpg is empty'):
            read(mixed(), [(0, i) for i in range(15, 19)], workers)


@pytest.mark.parametrize(
    'wrong', [dict(on_bad_sample='ignore'), dict(max_bad_share=1.0), dict(max_bad_share=-0.1)]
)
def test_wrong_arguments_are_named(mixed, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        mixed(**wrong)


def test_other_errors_are_not_skipped(tmp_path, configs):
    bad_files.write(tmp_path / 'cat/a.jpg', bad_files.jpeg())
    steps = [dict(type='LoadImageFromFile'), dict(type='CenterCrop', crop_size='wide')]
    with pytest.raises((TypeError, AssertionError)):
        SeededDataset(
            dataset(configs['classification'], 'train', tmp_path, steps), on_bad_sample='skip'
        )[0]


# -- in a run ----------------------------------------------------------------------------------------------------------


def test_a_run_names_the_bad_file_of_a_validation_set_that_is_not_wrapped(
    tmp_path, configs, unformatted
):
    from beit_mm.engine import launch

    bad_files.write(tmp_path / 'data/cat/a.jpg', bad_files.jpeg()[:-200])
    cfg = configs['classification'].copy()
    given = dataset(cfg, 'test', tmp_path / 'data')
    loader = dict(
        batch_size=1,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=given,
    )
    cfg.work_dir, cfg.test_dataloader, cfg.load_from = str(tmp_path / 'work'), loader, None
    cfg.model = dict(
        type='ImageClassifier',
        backbone=dict(type='mmpretrain.LeNet5', num_classes=-1),
        head=dict(type='LinearClsHead', num_classes=1000, in_channels=120),
    )
    for key in (
        'train_dataloader',
        'train_cfg',
        'optim_wrapper',
        'val_dataloader',
        'val_cfg',
        'val_evaluator',
    ):
        cfg[key] = None
    cfg.param_scheduler = cfg.auto_scale_lr = None
    cfg.custom_hooks = []
    runner: Runner = launch.build_runner(cfg)
    with pytest.raises(BadSample, match='data/cat/a.jpg cannot be decoded'):
        runner.test()
    logging.shutdown()


@pytest.mark.parametrize(
    'learned, tested, error, warning',
    [
        (['cat', 'dog'], ('cat', 'dog'), None, None),
        (
            ['cat', 'dog'],
            ('Dog', 'cat'),
            "'cat' is number 0 in the checkpoint and 1 in test_dataloader",
            None,
        ),
        (
            ['cat', 'dog'],
            ('cat', 'hound'),
            None,
            "classes differ: the checkpoint has 'dog', test_dataloader has 'hound'",
        ),
        (None, ('cat', 'dog'), None, None),
    ],
)
def test_a_checkpoint_is_tested_on_classes_in_its_own_order(learned, tested, error, warning):
    said = []
    loop = SimpleNamespace(
        dataloader=SimpleNamespace(dataset=SimpleNamespace(metainfo=dict(classes=tested)))
    )
    runner = SimpleNamespace(_test_loop=loop, logger=SimpleNamespace(warning=said.append))
    checkpoint = dict(meta=dict(dataset_meta=dict(classes=learned)) if learned else {})
    if error:
        with pytest.raises(ValueError, match=error):
            CheckSamples().after_load_checkpoint(runner, checkpoint)
    else:
        CheckSamples().after_load_checkpoint(runner, checkpoint)
    assert len(said) == bool(warning) and all(warning in words for words in said)


@pytest.mark.parametrize('kind', ['ImageNet', 'mmpretrain.CustomDataset', CustomDataset])
def test_every_data_set_of_folders_lists_what_the_reader_reads(kind):
    assert list_readable(dict(type=kind, data_root='data'))['extensions'] == SUFFIXES
    assert 'extensions' not in list_readable(dict(type=kind, ann_file='list.txt'))

"""The tools of mmpretrain and mmseg that look at a config's data and schedules run on our configs."""

import importlib.util
import runpy
import sys
from pathlib import Path

import mmseg
import pytest
from shapes.draw import write

ROOT = Path(__file__).parents[2]
MMSEG_DRAWS = pytest.mark.skipif(
    mmseg.__version__ == '1.2.2',
    reason='its visualizer hands OpenCV an array of a layout that OpenCV 5.0 refuses',
)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with the configs and four images of each kind where they look for them."""
    write(
        tmp_path / 'data/quickstart',
        4,
        2,
        size=64,
        segmentation_train=4,
        segmentation_val=2,
        jobs=1,
    )
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('MPLBACKEND', 'agg')
    return tmp_path


def call(monkeypatch: pytest.MonkeyPatch, tool: str, config: str, *words: str) -> None:
    package, _, path = tool.partition('/')
    script = Path(importlib.util.find_spec(package).origin).parent / '.mim/tools' / path
    monkeypatch.setattr(sys, 'argv', [tool, f'configs/quickstart/{config}.py', *words])
    runpy.run_path(str(script), run_name='__main__')


@pytest.mark.parametrize(
    ('tool', 'config', 'options'),
    [
        # Its other modes call matplotlib's adjust_bbox without a renderer, which matplotlib 3.11 needs.
        ('mmpretrain/visualization/browse_dataset.py', 'classification', ['--mode', 'original']),
        ('mmpretrain/visualization/browse_dataset.py', 'pretrain', ['--mode', 'original']),
        ('mmpretrain/visualization/browse_dataset.py', 'tokenizer', ['--mode', 'original']),
        pytest.param(
            'mmseg/analysis_tools/browse_dataset.py', 'segmentation', [], marks=MMSEG_DRAWS
        ),
    ],
)
def test_browse_dataset_draws_every_image(tool, config, options, place, monkeypatch):
    lists = dict(classification='meta/train.txt', segmentation='')
    if config in lists:
        options = [
            *options,
            '--cfg-options',
            f'train_dataloader.dataset.dataset.ann_file={lists[config]}',
        ]
    call(monkeypatch, tool, config, '--not-show', '--output-dir', 'seen', *options)
    assert len(list((place / 'seen').iterdir())) == 4


@pytest.mark.parametrize('config', ['classification', 'pretrain', 'segmentation'])
def test_vis_scheduler_draws_the_learning_rate(config, place, monkeypatch):
    options = [
        'train_cfg.max_iters=3',
        'custom_hooks=[]',
        'param_scheduler.0.end=1',
        'param_scheduler.1.begin=1',
    ]
    words = [
        '--not-show',
        '--save-path',
        'lr.png',
        '--dataset-size',
        '999',
        '--cfg-options',
        *options,
    ]
    call(monkeypatch, 'mmpretrain/visualization/vis_scheduler.py', config, *words)
    assert (place / 'lr.png').stat().st_size > 1000


def test_kfold_trains_and_validates_on_each_part(place, monkeypatch, unformatted):
    options = ['train_cfg.max_iters=1', 'train_cfg.val_interval=1', 'train_dataloader.batch_size=2']
    options += [
        'train_dataloader.dataset.dataset.ann_file=meta/train.txt',
        'model.backbone.arch.embed_dims=24',
    ]
    options += ['model.head.in_channels=24', 'model.backbone.arch.num_layers=1']
    words = [
        '--num-splits',
        '2',
        '--work-dir',
        'folds',
        '--no-persistent-workers',
        '--no-pin-memory',
        '--cfg-options',
        *options,
    ]
    call(monkeypatch, 'mmpretrain/kfold-cross-valid.py', 'classification', *words)
    assert len(list((place / 'folds').glob('fold[01]/*.pth'))) == 2

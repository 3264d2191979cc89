"""Tools of mmpretrain and mmseg that show a config's data and schedules run on our configs."""

import importlib.util
import runpy
import sys
from pathlib import Path

import mmseg
import pytest
from shapes.draw import write

ROOT = Path(__file__).parents[2]
FILE = 'train_dataloader.dataset.dataset.ann_file='
BROWSE = 'visualization/browse_dataset.py'
MMSEG_DRAWS = pytest.mark.skipif(
    mmseg.__version__ == '1.2.2',
    reason='mmseg 1.2.2 passes OpenCV 5.0 an array of a layout that it refuses',
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a tool on a config of the quickstart, in a folder with four images of each kind."""
    write(tmp_path / 'data/quickstart', 4, 2, segmentation_train=4, segmentation_val=2, jobs=1)
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('MPLBACKEND', 'agg')

    def call(package: str, tool: str, config: str, *words: str) -> None:
        script = Path(importlib.util.find_spec(package).origin).parent / '.mim/tools' / tool
        monkeypatch.setattr(sys, 'argv', [tool, f'configs/quickstart/{config}.py', *words])
        runpy.run_path(str(script), run_name='__main__')

    return call


# Other modes of mmpretrain call matplotlib's adjust_bbox without a renderer, which 3.11 needs.
@pytest.mark.parametrize('package, tool, config, options', [
    ('mmpretrain', BROWSE, 'pretrain', ['--mode', 'original']),
    pytest.param('mmseg', 'analysis_tools/browse_dataset.py', 'segmentation', ['--cfg-options', FILE],
                 marks=MMSEG_DRAWS),
])  # fmt: skip
def test_browse_dataset_draws_every_image(package, tool, config, options, run):
    run(package, tool, config, '--not-show', '--output-dir', 'seen', *options)
    assert len(list(Path('seen').iterdir())) == 4


def test_vis_scheduler_draws_the_learning_rate(run):
    words = '--not-show --save-path lr.png --dataset-size 999 --cfg-options train_cfg.max_iters=3 '
    words += 'custom_hooks=[] param_scheduler.0.end=1 param_scheduler.1.begin=1'
    run('mmpretrain', 'visualization/vis_scheduler.py', 'pretrain', *words.split())
    assert Path('lr.png').stat().st_size > 1000


def test_kfold_trains_on_each_part(run, unformatted):
    words = '--num-splits 2 --work-dir folds --no-persistent-workers --no-pin-memory --cfg-options '
    words += 'train_cfg.max_iters=1 train_cfg.val_interval=1 train_dataloader.batch_size=2 '
    words += f'{FILE}meta/train.txt model.backbone.arch.embed_dims=24 model.head.in_channels=24'
    run('mmpretrain', 'kfold-cross-valid.py', 'classification', *words.split())
    assert len(list(Path('folds').glob('fold[01]/*.pth'))) == 2

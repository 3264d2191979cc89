"""The commands of docs/other_tools.md: tools of mmpretrain and mmseg on configs and runs of ours."""

import importlib.util
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import mmseg
import pages
import pytest
import small
from mmengine.config import Config
from shapes.draw import draw_dataset

from beit_mm.engine.launch import build_runner

COMMANDS = [
    line
    for block in pages.blocks((pages.ROOT / 'docs/other_tools.md').read_text(), 'bash')
    for line in block.splitlines()
    if line.startswith('python ')
]
RUN = Path('work_dirs/quickstart/classification/pretrained')
FILE = 'train_dataloader.dataset.dataset.ann_file='
SMALL = 'model.backbone.arch.embed_dims=24 model.head.in_channels=24'
SHORTER = {  # part of a command → options that make it short
    'vis_scheduler': '--cfg-options train_cfg.max_iters=3 custom_hooks=[] param_scheduler.0.end=1 '
    'param_scheduler.1.begin=1',
    'kfold': '--work-dir folds --no-pin-memory --cfg-options train_cfg.max_iters=1 param_scheduler=None '
    f'train_cfg.val_interval=1 train_dataloader.batch_size=2 {FILE}meta/train.txt {SMALL}',
    'segmentation.py --not-show': f'--cfg-options {FILE}',
    'vis_tsne': '--perplexity 2',
}
WRITTEN = dict(  # part of a command → files and their number
    browse_dataset=('seen/*', 4),
    vis_scheduler=('lr.png', 1),
    analyze_logs=('loss.png', 1),
    confusion_matrix=('confusion.png', 1),
    vis_tsne=('tsne/*/*.png', 1),
    vis_cam=('cam.png', 1),
    kfold=('folds/fold[01]/*.pth', 2),
)

BROKEN = {  # in OpenMMLab's own last releases
    'mmseg/analysis_tools/browse': 'passes OpenCV 5.0 an array of a layout that it refuses',
    'get_flops': 'passes mmengine two arguments that exclude each other',
    'vis_tsne': 'passes scikit-learn 1.9 an argument that it no longer has',
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """A folder with four images of each kind, and a short run of the quickstart's classification."""
    place = tmp_path_factory.mktemp('other')
    draw_dataset(place / 'data/quickstart', 4, 4, segmentation_train=4, segmentation_val=2, jobs=1)
    (place / 'configs').symlink_to(pages.ROOT / 'configs')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        cfg = Config.fromfile('configs/quickstart/classification.py')
        cfg.merge_from_dict({f'{FILE[:-1]}': 'meta/train.txt'})
        cfg = small.shrink(cfg, None, RUN)
        cfg.default_hooks.logger.interval = 1
        build_runner(cfg).train()
        (place / RUN / 'iter_2.pth').rename(place / RUN / 'iter_30.pth')
        cfg.test_dataloader.dataset.indices = 4
        cfg.dump(place / RUN / 'classification.py')
    return place


@pytest.mark.parametrize('command', COMMANDS, ids=lambda command: command.split()[1].split('/')[-1])
def test_each_command_runs(command, folder, monkeypatch, unformatted, capsys):
    for part, reason in BROKEN.items():
        if part in command and mmseg.__version__ == '1.2.2':  # and mmpretrain 1.2.0
            pytest.skip(reason)
    if 'vis_cam' in command:
        pytest.importorskip('pytorch_grad_cam')
    monkeypatch.chdir(folder)
    monkeypatch.setenv('MPLBACKEND', 'agg')
    shutil.rmtree('seen', ignore_errors=True)
    for variable, package in (('$tools', 'mmpretrain'), ('$mmseg', 'mmseg')):
        origin = Path(importlib.util.find_spec(package).origin)
        command = command.replace(variable, str(origin.parent / '.mim/tools'))
    command = command.replace('$run', str(RUN)).replace('--num-splits 5', '--num-splits 2')
    command = command.replace('IMAGE', str(next(Path('data').rglob('*.jpg'))))
    for part, options in SHORTER.items():
        command += f' {options}' if part in command else ''
    words = []
    for word in shlex.split(command)[1:]:
        words += map(str, Path().glob(word)) if '/*/' in word else [word]
    monkeypatch.setattr(sys, 'argv', words)
    runpy.run_path(words[0], run_name='__main__')
    shown = capsys.readouterr().out
    files = [found for part, found in WRITTEN.items() if part in words[0]]
    for pattern, count in files:
        assert len(list(Path().glob(pattern))) == count, pattern
    assert files or 'Flops' in shown or 'BEiTPretrainer' in shown

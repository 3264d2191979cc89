"""docs/tutorial.md runs as it is, with few images and few steps."""

import re
import shlex
from pathlib import Path

import numpy as np
import pages
import pytest
from mmengine.config import Config
from shapes import draw as shapes

pytestmark = pytest.mark.any_stack

TUTORIAL = (pages.ROOT / 'docs/tutorial.md').read_text()
FEW = {'--train': 40, '--val': 20, '--segmentation-train': 16, '--segmentation-val': 4}


@pytest.fixture
def place(tmp_path, monkeypatch, unformatted) -> Path:
    """The project's folder without data."""
    for name in ('configs', 'tools'):
        (tmp_path / name).symlink_to(pages.ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_configs(place: Path, text: str) -> None:
    for block in pages.blocks(text, 'python'):
        if path := pages.file_of(block):
            (place / path).parent.mkdir(exist_ok=True)
            (place / path).write_text(block)


def shorten(cfg: Config) -> Config:
    cfg.train_cfg.update(max_iters=4, val_interval=4)
    cfg.param_scheduler = None  # the run is shorter than the warm-up
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    hooks = dict(InitCodebook=dict(num_images=16), Probe=dict(interval=2, num_images=12))
    for hook in cfg.get('custom_hooks', ()):
        hook.update(hooks.get(hook.type, {}))
    return cfg


def test_the_tutorial_trains_all_stages_and_writes_its_files(place, monkeypatch):
    write_configs(place, TUTORIAL)
    runs, names = pages.ShortRuns(monkeypatch, shorten, ('iter_4',)), {}
    for language, block in re.findall(r'```(bash|python)\n(.*?)```', TUTORIAL, re.S):
        if language == 'python':
            if not pages.file_of(block):
                exec(block, names)
        elif block.startswith('python tools/draw_shapes.py'):
            for option, number in FEW.items():
                block = re.sub(rf'{option} \d+', f'{option} {number}', block)
            assert shapes.main([*shlex.split(block)[2:], '--jobs', '1']) == 0
        else:
            for command in block.splitlines():
                runs.call(command)

    logs = runs.logs()
    assert list(logs) == ['tokenizer', 'pretrain', 'segmentation', 'scratch']
    assert 'codes_used' in logs['tokenizer'] and 'psnr_mean_color' in logs['tokenizer']
    assert 'work_dirs/tokenizer/iter_1400.pth, written by beit_mm:' in logs['pretrain']
    last_probe = logs['pretrain'].split('probe: ', 2)[2].splitlines()[0]
    for key in ('val_loss', 'marginal_entropy', 'marginal_accuracy', 'effective_rank', 'knn_top1'):
        assert key in last_probe
    assert 'linear_top1' in last_probe
    assert 'work_dirs/pretrain/iter_1250.pth, written by beit_mm:' in logs['segmentation']
    assert 'iter_1250.pth, written by' not in logs['scratch'] and 'mIoU' in logs['scratch']
    assert np.shape(names['seen']['predictions'][0]['ids']) == (14, 14)
    for folder in ('tokens', 'guesses', 'segmented/vis'):
        assert len(list((place / 'tutorial' / folder).iterdir())) == FEW['--segmentation-val']
    assert names['classes'].shape == (1, 112, 112)

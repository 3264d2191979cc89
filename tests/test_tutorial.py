"""docs/tutorial.md runs as it stands, on a few images and with four steps in place of a thousand."""

import re
import shlex

import numpy as np
import pages
import pytest
from mmengine.config import Config
from shapes import draw as shapes

pytestmark = pytest.mark.any_stack

PAGE = (pages.ROOT / 'docs/tutorial.md').read_text()
FEW = {'--train': 40, '--val': 20, '--segmentation-train': 16, '--segmentation-val': 4}


def short(cfg: Config) -> Config:
    cfg.train_cfg.update(max_iters=4, val_interval=4)
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    for hook in cfg.get('custom_hooks', ()):
        hook.update(
            dict(InitCodebook=dict(num_images=16), Probe=dict(interval=2, num_images=12)).get(
                hook.type, {}
            )
        )
    return cfg


def test_photos_become_a_tokenizer_a_pretrained_model_a_segmentor_and_a_file(
    tmp_path, monkeypatch, unformatted
):
    for name in ('configs', 'tools'):
        (tmp_path / name).symlink_to(pages.ROOT / name)
    (tmp_path / 'tutorial').mkdir()
    monkeypatch.chdir(tmp_path)
    runs, names = pages.ShortRuns(monkeypatch, short, ('iter_4',)), {}
    for language, block in re.findall(r'```(bash|python)\n(.*?)```', PAGE, re.S):
        if language == 'python' and (path := pages.file_of(block)):
            (tmp_path / path).write_text(block)
        elif language == 'python':
            exec(block, names)
        elif block.startswith('python tools/draw_shapes.py'):
            few = re.sub(
                r'(--[\w-]+) (\d+)',
                lambda found: f'{found[1]} {FEW.get(found[1], found[2])}',
                block,
            )
            assert shapes.main([*shlex.split(few)[2:], '--jobs', '1']) == 0
        else:
            for command in block.splitlines():
                runs.call(command)

    logs = runs.logs()
    assert list(logs) == ['tokenizer', 'pretrain', 'segmentation', 'scratch']
    assert 'work_dirs/tokenizer/iter_1400.pth, written by beit_mm:' in logs['pretrain']
    for word in ('codes_used', 'psnr_mean_color'):
        assert word in logs['tokenizer']
    for word in (
        'val_loss',
        'marginal_entropy',
        'marginal_accuracy',
        'effective_rank',
        'knn_top1',
        'linear_top1',
    ):
        assert word in logs['pretrain'].split('probe: ', 2)[2].splitlines()[0]
    assert 'work_dirs/pretrain/iter_1250.pth, written by beit_mm:' in logs['segmentation']
    assert 'iter_1250.pth, written by' not in logs['scratch'] and 'mIoU' in logs['scratch']
    assert np.shape(names['seen']['predictions'][0]['ids']) == (14, 14)
    for folder in ('tokens', 'guesses', 'segmented/vis'):
        assert len(list((tmp_path / 'tutorial' / folder).iterdir())) == FEW['--segmentation-val']
    assert names['classes'].shape == (1, 112, 112)

"""The README's files are there, its commands run in the order given, its snippets build; all at toy size."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pages
import pytest
import small
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from shapes import draw as shapes

from beit_mm.checkpoint.download import published
from beit_mm.config_check import preflight

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
OWN_IMAGES = (ROOT / 'docs/own_images.md').read_text()
SNIPPETS = pages.blocks(README + OWN_IMAGES, 'python')


pytestmark = pytest.mark.usefixtures('unformatted')


def test_every_link_and_every_file_named_is_there():
    links = [link for link in re.findall(r'\]\(([^)]+)\)', README) if '://' not in link]
    named = re.findall(r'\b((?:configs|tools|docs|requirements)/[\w./+-]*\w)', README)
    assert len(links) > 5 and len(named) > 20
    assert [path for path in links + named if not (ROOT / path).exists()] == []


def test_a_row_of_the_table_names_a_config_and_a_command_that_takes_it():
    rows = [
        row.strip('| ').split(' | ')
        for row in README.split('## Documentation')[0].splitlines()
        if row.startswith('| ') and '`' in row
    ]
    assert len(rows) > 10
    for _, config, command in rows:
        path = ROOT / re.search(r'`(.+)`', config)[1]
        files = [path] if path.is_file() else list(path.glob('*.py'))
        assert files, config
        assert re.search(
            r'tools/(recipe|test)\.py|tools/(dist_train|dist_test|slurm_train)\.sh', command
        )


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Path:
    """A folder as the README has it: its own files in `my`, three classes of images and three in masks."""
    for name in ('configs', 'tools'):
        (tmp_path / name).symlink_to(ROOT / name)
    drawn, my = tmp_path / 'drawn', tmp_path / 'my'
    shapes.write(drawn, train=30, val=20, size=64, segmentation_train=4, segmentation_val=2, jobs=1)
    for split in ('train', 'val'):
        for label, name in enumerate(('cat', 'dog', 'owl')):
            shutil.copytree(drawn / f'imagenet/{split}/n{label:08d}', my / f'images/{split}/{name}')
    shutil.copytree(drawn / 'ade20k', my / 'scenes')
    for mask in (my / 'scenes/annotations').rglob('*.png'):
        Image.fromarray(np.minimum(np.array(Image.open(mask)), 3)).save(mask)
    for snippet in SNIPPETS:
        if path := pages.file_of(snippet):
            (tmp_path / path).write_text(snippet)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.any_stack
def test_own_images_go_from_tokenizer_to_segmentation_by_the_commands_given(
    mine, monkeypatch, capsys
):
    runs = pages.ShortRuns(
        monkeypatch, lambda cfg: small.shrink(cfg, None, Path(cfg.work_dir)), ('epoch_1', 'iter_2')
    )
    monkeypatch.setattr(
        preflight, 'preflight', lambda *_: []
    )  # of configs at their real size, with small weights
    for command in [
        line for block in pages.blocks(OWN_IMAGES, 'bash') for line in block.splitlines()
    ]:
        runs.call(command)
    logs = runs.logs()
    assert list(logs) == ['tokenizer', 'pretrain', 'classification', 'segmentation']
    assert 'work_dirs/tokenizer/iter_50000.pth, written by beit_mm:' in logs['pretrain']
    assert 'mim/token_term' in logs['pretrain'] and 'mim/pixel_term' in logs['pretrain']
    for task, metric in dict(classification='accuracy/top1', segmentation='mIoU').items():
        assert (
            'work_dirs/pretrain/epoch_300.pth, written by beit_mm:' in logs[task]
            and metric in logs[task]
        )


def test_the_example_starts_from_published_weights_and_builds(mine):
    cfg = Config.fromfile('my/finetune.py')
    assert cfg.model.backbone.init_cfg.checkpoint in published()
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        assert MODELS.build(cfg.model).head.fc.out_features == 3


HOSTS = dict(
    mmpretrain='resnet/resnet50_8xb32_in1k.py', mmseg='fcn/fcn_r50-d8_4xb4-160k_ade20k-512x512.py'
)


@pytest.fixture(scope='module')
def in_other_configs(tmp_path_factory) -> str:
    """What a process prints that builds the README's snippets without importing anything of this package."""
    folder, files = tmp_path_factory.mktemp('hosts'), []
    rates = next(snippet for snippet in SNIPPETS if snippet.startswith('optim_wrapper'))
    for host, theirs in HOSTS.items():
        base = Path(importlib.util.find_spec(host).origin).parent / '.mim/configs' / theirs
        snippet = next(snippet for snippet in SNIPPETS if f"'{base.name}'" in snippet)
        files.append(folder / f'{host}.py')
        files[-1].write_text(snippet.replace(base.name, str(base)) + rates)
    code = f"""
import os, sys
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
if os.environ.get('BEIT_MM_STACK') == 'openmmlab':  # its mmseg is not to be imported beside mmcv-lite without this
    from beit_mm import compat
    compat.apply()
for host, path in zip({list(HOSTS)}, {[str(path) for path in files]}):
    cfg = Config.fromfile(path)
    init_default_scope(host)
    assert 'custom_imports' not in cfg and ('beit_mm.registry' in sys.modules) == (host == 'mmseg')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
        side = cfg.model.backbone.img_size
        out = model(torch.zeros(1, 3, side, side))
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    print(host, tuple(out.shape), len({{group['lr'] for group in optimizer.param_groups}}))
"""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])
    environment = os.environ | dict(PYTHONPATH=path)
    done = subprocess.run(
        [sys.executable, '-c', code], env=environment, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_backbone_serves_in_configs_of_mmpretrain_and_mmseg_without_custom_imports(
    in_other_configs,
):
    # 14 rates: the embeddings', twelve blocks', the rest's; the head of FCN works on the map of patches.
    assert 'mmpretrain (1, 1000) 14' in in_other_configs
    assert 'mmseg (1, 150, 32, 32) 14' in in_other_configs

"""The README: links and files exist, and snippets build in configs of ours, mmpretrain and mmseg."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pages
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from beit_mm.checkpoint.published import published

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
OWN_IMAGES = (ROOT / 'docs/own_images.md').read_text()
SNIPPETS = pages.blocks(README + OWN_IMAGES, 'python')
BASES = dict(
    mmpretrain='resnet/resnet50_8xb32_in1k.py',
    mmseg='fcn/fcn_r50-d8_4xb4-160k_ade20k-512x512.py',
)


def test_all_links_and_named_files_exist():
    links = [link for link in re.findall(r'\]\(([^)]+)\)', README) if '://' not in link]
    named = re.findall(r'\b((?:configs|tools|docs|requirements)/[\w./+-]*\w)', README)
    assert len(links) > 5 and len(named) > 20
    assert [path for path in links + named if not (ROOT / path).exists()] == []


def test_each_row_of_the_table_names_a_config_and_a_tool_that_takes_it():
    lines = README.split('## Documentation')[0].splitlines()
    rows = [line.strip('| ').split(' | ') for line in lines if re.match(r'\| .*`', line)]
    assert len(rows) > 10
    tools = r'tools/(recipe|test)\.py|tools/(dist_train|dist_test|slurm_train)\.sh'
    for _, config, command in rows:
        path = ROOT / re.search(r'`(.+)`', config)[1]
        assert path.is_file() or list(path.glob('*.py')), config
        assert re.search(tools, command)


def test_the_example_starts_from_published_weights_and_builds(tmp_path, monkeypatch):
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    (tmp_path / 'my').mkdir()
    snippet = next(text for text in SNIPPETS if pages.file_of(text) == 'my/finetune.py')
    (tmp_path / 'my/finetune.py').write_text(snippet)
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile('my/finetune.py')
    assert cfg.model.backbone.init_cfg.checkpoint in published()
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        assert MODELS.build(cfg.model).head.fc.out_features == 3


BUILD = """
import os, sys
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
if os.environ.get('BEIT_MM_STACK') == 'openmmlab':  # its mmseg cannot be imported beside mmcv-lite
    from beit_mm import compat
    compat.apply()
for host in ('mmpretrain', 'mmseg'):
    cfg = Config.fromfile(f'for_{host}.py')
    init_default_scope(host)
    assert 'custom_imports' not in cfg and ('beit_mm.registry' in sys.modules) == (host == 'mmseg')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
        side = cfg.model.backbone.img_size
        out = model(torch.zeros(1, 3, side, side))
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    print(host, tuple(out.shape), len({group['lr'] for group in optimizer.param_groups}))
"""


def test_the_backbone_builds_in_configs_of_mmpretrain_and_mmseg_without_custom_imports(tmp_path):
    rates = next(snippet for snippet in SNIPPETS if snippet.startswith('optim_wrapper'))
    for host, name in BASES.items():
        base = Path(importlib.util.find_spec(host).origin).parent / '.mim/configs' / name
        snippet = next(snippet for snippet in SNIPPETS if f"'{base.name}'" in snippet)
        (tmp_path / f'for_{host}.py').write_text(snippet.replace(base.name, str(base)) + rates)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])
    environment = os.environ | dict(PYTHONPATH=path)
    command = [sys.executable, '-c', BUILD]
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True)
    # 14 rates: of the embeddings, twelve blocks and the rest. FCN's head works on the map of patches.
    assert 'mmpretrain (1, 1000) 14' in done.stdout, done.stderr[-3000:]
    assert 'mmseg (1, 150, 32, 32) 14' in done.stdout, done.stderr[-3000:]

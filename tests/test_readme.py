"""The README: files exist, and snippets build in configs of ours, mmpretrain and mmseg."""

import re
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


def test_all_named_files_exist():
    named = re.findall(r'\b((?:configs|tools|docs|requirements)/[\w./+-]*\w)', README)
    assert len(named) > 20 and [path for path in named if not (ROOT / path).exists()] == []


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

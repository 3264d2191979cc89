"""`_base_ = 'beit_mm::TASK/NAME.py'` is the config of that name."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import mmengine
import pages
import pytest
from mmengine.config import Config
from small import CONFIGS, each


def read(tmp_path: Path, base: str) -> Config:
    file = tmp_path / 'mine.py'
    file.write_text(f'_base_ = {base!r}\n')
    return Config.fromfile(file)


@pytest.mark.parametrize('name', each(CONFIGS))
def test_a_base_by_name_is_the_base_by_path(name, tmp_path):
    expected = Config.fromfile(CONFIGS[name])
    assert read(tmp_path, f'beit_mm::{name}.py').to_dict() == expected.to_dict()


def test_the_page_on_installing_shows_a_config_that_inherits_by_name(tmp_path):
    (block,) = pages.blocks((pages.ROOT / 'docs/install.md').read_text(), 'python')
    (tmp_path / 'mine.py').write_text(block)
    images = Config.fromfile(tmp_path / 'mine.py').train_dataloader.dataset.dataset
    assert (images.type, images.data_root) == ('ImageNet', 'my/imagenet')


def test_an_unknown_name_is_an_error_with_the_path(tmp_path):
    with pytest.raises(FileNotFoundError, match='configs/pretrain/none.py'):
        read(tmp_path, 'beit_mm::pretrain/none.py')


@pytest.mark.skipif(
    mmengine.__version__ == '0.10.7' and find_spec('pkg_resources') is None,
    reason='mmengine 0.10.7 needs pkg_resources, which setuptools 82 has removed',
)
def test_bases_of_other_packages_are_found_as_before(tmp_path):
    cfg = read(tmp_path, 'mmpretrain::resnet/resnet18_8xb32_in1k.py')
    assert cfg.model.backbone.depth == 18 and cfg.model._scope_ == 'mmpretrain'


@pytest.mark.parametrize('imports', ['beit_mm, mmengine.config', 'mmengine.config, beit_mm', ''])
def test_only_beit_mm_has_to_be_imported_whenever(imports, tmp_path):
    (tmp_path / 'mine.py').write_text(
        "_base_ = 'beit_mm::tokenizer/dvae_64xb8-coslr-3000k_in1k-256px.py'"
    )
    code = f'import {imports or "mmengine"}\nfrom mmengine.config import Config\n'
    code += 'print(Config.fromfile("mine.py").codes)'
    path = os.pathsep.join([os.environ.get('PYTHONPATH', ''), str(pages.ROOT)])
    done = subprocess.run(
        [sys.executable, '-c', code],
        env=os.environ | dict(PYTHONPATH=path),
        text=True,
        capture_output=True,
        cwd=tmp_path,
    )
    if imports:
        assert done.stdout == '8192\n', done.stderr
    else:
        assert 'does not support to load beit_mm' in done.stderr

"""A missing or old package is an error that says how to install it; no host library is needed without cause."""

import sys

import mmengine
import pytest
from small import ROOT, run_python

from beit_mm.utils import packages


def test_importing_the_package_is_cheap():
    code = 'import sys, beit_mm.compat; print({"torch", "mmengine", "mmcv", "numpy"} & set(sys.modules))'
    assert run_python(code).stdout == 'set()\n'


def test_a_terminal_that_lacks_a_character_prints_its_code(monkeypatch):
    monkeypatch.setenv('PYTHONIOENCODING', 'ascii')
    done = run_python("import beit_mm; print('━━ … ≠')")
    assert done.stdout == '\\u2501\\u2501 \\u2026 \\u2260\n', done.stderr


def test_a_missing_or_old_package_is_an_error_with_the_pip_command(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmseg', None)
    message = r'mmseg is not installed(.|\n)*pip install -U onedl-mmsegmentation'
    with pytest.raises(ImportError, match=message):
        packages.require('torch', 'mmseg')
    monkeypatch.setattr(mmengine, '__version__', '0.7.4')
    message = r'mmengine is 0.7.4, in .*mmengine(.|\n)*pip install -U onedl-mmengine'
    with pytest.raises(ImportError, match=message):
        packages.require('mmengine')


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        ("assert False, 'MMCV==2.2.0 is used'", 'mmseg refuses an installed version: MMCV==2.2.0'),
        ('import ftfy_is_missing', 'mmseg needs ftfy_is_missing: pip install ftfy_is_missing'),
    ],
)
def test_a_host_library_that_cannot_be_imported_says_why(tmp_path, monkeypatch, source, message):
    (tmp_path / 'mmseg.py').write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'mmseg', raising=False)
    with pytest.raises(ImportError, match=message):
        packages.require('mmseg')


WITHOUT_MMENGINE = f"""
import importlib, runpy, sys
sys.modules['mmengine'] = None
rooms = ['apis', 'engine', 'registry', 'checkpoint', 'models', 'config_check']
tools = ['train', 'test', 'recipe', 'check_data', 'export', 'convert']
for name in [f'beit_mm.{{room}}' for room in rooms] + [f'{ROOT}/tools/{{tool}}.py' for tool in tools]:
    for known in [known for known in sys.modules if known.startswith('beit_mm.')]:
        del sys.modules[known]
    try:
        runpy.run_path(name) if '/' in name else importlib.import_module(name)
    except ImportError as error:
        print('mmengine is not installed. beit_mm needs' in str(error) and 'pip install' in str(error))
"""


def test_every_room_and_tool_names_what_is_missing():
    done = run_python(WITHOUT_MMENGINE)
    assert done.stdout.split() == ['True'] * 12, done.stdout + done.stderr


def test_a_lookup_in_a_registry_shows_the_error():
    code = (
        'from beit_mm.utils import packages; packages.NEEDED["torch"] = ((99, 0), packages.NEEDED["torch"][1]); '
        'from mmengine.registry import MODELS; MODELS.build(dict(type="beit_mm.BEiT"))'
    )
    error = run_python(code).stderr
    assert 'ImportError: torch is 2.' in error and 'pip install -U torch' in error


@pytest.mark.parametrize('host, other', [('mmpretrain', 'mmseg'), ('mmseg', 'mmpretrain')])
def test_one_host_library_works_without_the_other_and_without_custom_imports(host, other):
    code = (
        f'import sys; sys.modules[{other!r}] = None\n'
        f'from beit_mm import compat; compat.apply()\nfrom {host}.registry import MODELS\n'
        'arch = dict(embed_dims=8, num_layers=1, num_heads=1, feedforward_channels=8)\n'
        'print(type(MODELS.build(dict(type="beit_mm.BEiT", arch=arch, img_size=32))).__name__)\n'
        'from beit_mm.models import SETRPUPHead'
    )
    done = run_python(code)
    assert done.stdout == 'BEiT\n', done.stderr
    assert (done.returncode == 0) == (host == 'mmseg')
    if host == 'mmpretrain':
        assert 'ImportError: mmseg is not installed' in done.stderr and 'pip install' in done.stderr

"""Without OpenMMLab, every package and tool names what to install."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.any_stack

ROOT = Path(__file__).parents[1]
CODE = """
import importlib, runpy, sys
sys.modules['mmengine'] = None
for name in sys.argv[1:]:
    for known in [known for known in sys.modules if known.startswith('beit_mm.')]:
        del sys.modules[known]
    try:
        runpy.run_path(name) if name.endswith('.py') else importlib.import_module(f'beit_mm.{name}')
    except ImportError as error:
        print('mmengine is not installed. beit_mm needs' in str(error) and 'pip install' in str(error))
"""


def test_every_package_and_tool_names_what_is_missing():
    packages = ['apis', 'engine', 'registry', 'checkpoint', 'models', 'config_check']
    tools = ('train', 'test', 'recipe', 'check_data', 'export', 'convert')
    names = packages + [str(ROOT / f'tools/{name}.py') for name in tools]
    command = [sys.executable, '-c', CODE, *names]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert done.stdout.split() == ['True'] * len(names), done.stdout + done.stderr


def test_a_terminal_that_lacks_a_character_prints_its_code():
    command = [sys.executable, '-c', "import beit_mm; print('━━ … ≠')"]
    env = dict(PYTHONIOENCODING='ascii')
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, env=env)
    assert done.stdout == '\\u2501\\u2501 \\u2026 \\u2260\n', done.stderr

"""Without OpenMMLab every package and tool says what to install."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.any_stack

ROOT = Path(__file__).parents[1]
CODE = """
import importlib, runpy, sys
sys.modules['mmengine'] = None
for name in ('apis', 'engine', 'registry', 'checkpoint', 'models', 'config_check', *sys.argv[1:]):
    for known in [known for known in sys.modules if known.startswith('beit_mm.')]:
        del sys.modules[known]
    try:
        runpy.run_path(name) if name.endswith('.py') else importlib.import_module(f'beit_mm.{name}')
    except ImportError as error:
        print(name, 'mmengine is not installed. beit_mm needs' in str(error) and 'pip install' in str(error))
"""


def test_every_package_and_tool_names_what_is_missing():
    tools = [
        str(ROOT / f'tools/{name}.py')
        for name in ('train', 'test', 'recipe', 'check_data', 'export', 'convert')
    ]
    done = subprocess.run(
        [sys.executable, '-c', CODE, *tools], cwd=ROOT, text=True, capture_output=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 6 + len(tools) and all(line.endswith(' True') for line in lines), (
        done.stdout + done.stderr
    )


def test_a_terminal_that_lacks_a_character_ends_no_tool():
    code = "import beit_mm; print('━━ … ≠')"
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=ROOT,
        text=True,
        capture_output=True,
        env=dict(PYTHONIOENCODING='ascii'),
    )
    assert done.returncode == 0 and done.stdout == '\\u2501\\u2501 \\u2026 \\u2260\n', done.stderr

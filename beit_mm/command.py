"""The command `beit-mm`: `beit-mm train CONFIG` is `python tools/train.py CONFIG`.

It works in every folder, also for a package that was installed from a wheel.
"""

import ast
import runpy
import sys
from pathlib import Path

from .utils.installation import find_file, root


def find_tools() -> dict[str, Path]:
    """Return name → script of the tools, such as `new-config` → tools/new_config.py."""
    scripts = sorted((root() / 'tools').glob('*.py'))
    runnable = (path for path in scripts if "if __name__ == '__main__'" in path.read_text('utf-8'))
    return {path.stem.replace('_', '-'): path for path in runnable}


def locate(word: str) -> str:
    """Return the installed file for a name such as configs/quickstart/recipe.py.

    A file in the current folder comes first.
    """
    return find_file(word) if word.startswith('configs/') else word


def main() -> None:
    tools = find_tools()
    name, *words = sys.argv[1:] or ['--help']
    if name not in tools:
        print('usage: beit-mm TOOL …, and beit-mm TOOL --help\n')
        for tool, path in tools.items():
            print(f'  {tool:15} {_summary(path)}')
        sys.exit(None if name in ('-h', '--help') else f'\nerror: {name} is no tool')
    script = tools[name]
    sys.argv = [str(script), *map(locate, words)]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name='__main__')


def _summary(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text('utf-8'))).splitlines()[0].split(': `')[0]


if __name__ == '__main__':
    main()

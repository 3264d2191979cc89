"""The rooms of the package lie on floors, imports only go down, and entry points are short."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'beit_mm'
TOOLS = ROOT / 'tools'
FLOORS = [  # a room imports from its own floor's own files and from lower floors
    {'compat', 'registry', 'utils'},
    {'models', 'data'},
    {'checkpoint'},
    {'config_check'},
    {'engine'},
    {'viz'},
    {'apis', 'command'},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(PACKAGE.rglob('*.py'))


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {module_of(path): path for path in FILES}


def imports(path: Path) -> set[str]:
    """Return the modules of the package that a file imports, also inside functions."""
    package = module_of(path) if path.name == '__init__.py' else module_of(path).rpartition('.')[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit('.', node.level - 1)[0] if node.level else ''
            source = '.'.join(filter(None, [base, node.module]))
            found |= {
                name if (name := f'{source}.{alias.name}') in MODULES else source
                for alias in node.names
            }
    return {name for name in found if name in MODULES}


def room_of(module: str) -> str:
    return module.split('.')[1] if '.' in module else ''


def test_rooms_import_from_lower_floors_only():
    upward = [
        f'{module} imports {other}'
        for module, path in MODULES.items()
        for other in imports(path)
        if (room := room_of(module)) and (target := room_of(other)) and room != target
        if FLOOR[target] > FLOOR[room] or (FLOOR[target] == FLOOR[room] > 0)
    ]
    assert not upward, '\n'.join(upward)


def test_no_files_import_each_other_in_a_circle():
    graph = {module: imports(path) - {module} for module, path in MODULES.items()}
    while leaves := {module for module, targets in graph.items() if not targets & graph.keys()}:
        graph = {module: targets for module, targets in graph.items() if module not in leaves}
    # What is left is a circle or imports one.
    assert not graph, {module: sorted(targets & graph.keys()) for module, targets in graph.items()}


def test_entry_points_are_short():
    lines = {path: path.read_text(encoding='utf-8').count('\n') for path in TOOLS.glob('*.py')}
    too_long = [f'{path.name} has {count} lines' for path, count in lines.items() if count >= 100]
    assert lines and not too_long, f'expected under 100, with the rest in a folder: {too_long}'

"""One variable of a config determines everything that follows from the length of its run."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from mmengine.config import Config
from small import ROOT

from beit_mm.utils.config_tree import nodes

pytestmark = pytest.mark.any_stack

FILES = {
    str(path.relative_to(ROOT / 'configs'))[:-3]: path
    for path in sorted((ROOT / 'configs').rglob('*.py'))
    if not {'quickstart', 'quickstart_v2', 'reproduce'} & set(path.parts) and path.stem != 'recipe'
}
VARIABLES = 'epochs', 'iters'
KEYS = {'max_epochs', 'max_iters', 'val_interval', 'begin', 'end', 'milestones', 'iters'}
FIXED = {500}  # the warm-up of detectors is a number of iterations, in a run that counts epochs
SHORTER = 10


def find_variable(path: Path) -> ast.Constant | None:
    """Return the number that a file assigns to `epochs` or `iters`."""
    for node in ast.parse(path.read_text()).body:
        for target in node.targets if isinstance(node, ast.Assign) else ():
            names = target.elts if isinstance(target, ast.Tuple) else [target]
            values = node.value.elts if isinstance(target, ast.Tuple) else [node.value]
            for name, value in zip(names, values, strict=True):
                if isinstance(name, ast.Name) and name.id in VARIABLES:
                    return value
    return None


def read_lengths(cfg: Config) -> Iterator[object]:
    """Yield all values that should follow the length."""
    parts = [cfg.get('train_cfg', {}), cfg.get('param_scheduler', []), cfg.get('custom_hooks', [])]
    found = [node.get(key) for node in nodes(parts) for key in sorted(KEYS)]
    found.append(cfg.get('default_hooks', {}).get('checkpoint', {}).get('interval'))
    for value in found:
        yield from value if isinstance(value, list) else [value]


@pytest.mark.parametrize('name', FILES)
def test_no_length_is_written_as_a_number(name):
    tree = ast.parse(FILES[name].read_text())
    given = [node for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg in KEYS]
    for hook in (node for node in ast.walk(tree) if isinstance(node, ast.keyword)):
        if hook.arg == 'checkpoint' and isinstance(hook.value, ast.Call):
            given += [part for part in hook.value.keywords if part.arg == 'interval']
    for part in given:
        for value in part.value.elts if isinstance(part.value, ast.List) else [part.value]:
            number = isinstance(value, ast.Constant) and type(value.value) is int
            assert not number or value.value <= 1 or value.value in FIXED, ast.unparse(part)


@pytest.mark.parametrize('name', [name for name in FILES if find_variable(FILES[name])])
def test_a_copy_with_a_tenth_of_the_length_is_a_tenth_in_all_parts(name, tmp_path):
    path, old = FILES[name], find_variable(FILES[name])
    lines = path.read_text().replace("'../", f"'{path.parent}/../").splitlines()
    lines = [line.replace("_base_ = 'beit", f"_base_ = '{path.parent}/beit") for line in lines]
    line = lines[old.lineno - 1]
    lines[old.lineno - 1] = line[: old.col_offset] + line[old.col_offset :].replace(
        ast.get_source_segment(path.read_text(), old), str(old.value // SHORTER), 1
    )
    (tmp_path / 'short.py').write_text('\n'.join(lines))
    full, short = Config.fromfile(path), Config.fromfile(tmp_path / 'short.py')
    pairs = list(zip(read_lengths(full), read_lengths(short), strict=True))
    assert (old.value, old.value // SHORTER) in pairs
    for long, shorter in pairs:
        if type(long) is int and long not in FIXED:
            assert shorter == pytest.approx(long / SHORTER, abs=1.1), pairs

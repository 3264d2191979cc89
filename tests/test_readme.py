"""The README: files exist, and each row of its table can be run."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()


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

"""Names of classes, arguments and keys: old ones are gone and listed, new ones exist."""

import re
from pathlib import Path

import pytest

from beit_mm.config_check import names
from beit_mm.config_check.metrics import reported_keys
from beit_mm.config_check.renamed import RENAMED

ROOT = Path(__file__).parents[2]


def test_a_missing_requirement_of_a_package_is_an_error(tmp_path, monkeypatch):
    (tmp_path / 'hollow').mkdir()
    (tmp_path / 'hollow/__init__.py').touch()
    (tmp_path / 'hollow/registry.py').write_text('import a_package_that_is_nowhere')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match='a_package_that_is_nowhere'):
        names.find_classes('NoSuch', 'hollow')


@pytest.mark.parametrize(('old', 'new'), RENAMED.items())
def test_an_old_name_is_gone_and_its_new_name_exists(old, new):
    name, _, argument = old.partition('.')
    classes = names.find_classes(name, 'beit_mm')
    known = [each for each in (old, new) if names.find_classes(each, 'beit_mm')]
    if old in ('codes', 'data_wait', 'rss'):  # keys of the training log
        files = (ROOT / 'beit_mm').rglob('*.py')
        known = [new] if any(f"{new}'" in path.read_text() for path in files) else []
    elif '=' in old:
        known = [new]  # a value: `test_an_old_name_stops_every_command`
    elif '/' in old:
        known = reported_keys(dict(type='TokenizerMetric')) + reported_keys(dict(type='MIMMetric'))
    elif argument:
        known = set().union(*map(names.accepted_arguments, classes))
    assert (argument or old) not in known and (new in known or new.startswith('removed'))


def test_the_changelog_and_the_table_of_old_names_agree():
    text = (ROOT / 'CHANGELOG.md').read_text()
    table = text.partition('### In configs and logs\n')[2].partition('\n### ')[0]
    found = {}
    for line in table.splitlines():
        kind, old, new = ([*map(str.strip, line.strip('|').split('|')), '', '', ''])[:3]
        if kind in ('argument', 'hook', 'log key'):
            olds, news = (re.findall('`(.+?)`', cell) for cell in (old, new))
            if new.startswith('removed'):
                news = ['removed']
            found |= dict(zip(olds, news * len(olds) if len(news) == 1 else news, strict=True))
    assert found == {old: new.partition(':')[0] for old, new in RENAMED.items()}

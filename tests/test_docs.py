"""docs/: each page is in the site's navigation, and each relative link of a page, and its anchor, is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BESIDE = ('README.md', 'README_zh-CN.md', 'CONTRIBUTING.md', 'CHANGELOG.md')  # pages of the site that lie beside docs/
PAGES = [*(ROOT / 'docs').rglob('*.md'), *(ROOT / name for name in BESIDE)]


def prose(page: Path) -> str:
    return re.sub(r'^```.*?^```', '', page.read_text(), flags=re.S | re.M)


def anchors(page: Path) -> set[str]:
    """GitHub's, which the site has as well."""
    titles = re.findall(r'^#+ (.+)', prose(page), re.M)
    return {re.sub(r'[^\w -]', '', title.lower()).replace(' ', '-') for title in titles}


def test_every_page_is_in_the_navigation():
    nav = re.findall(r'^ +- ([\w./-]+\.md)$|^  - (\w+\.md)$', (ROOT / 'mkdocs.yml').read_text(), re.M)
    nav = sorted(one or other for one, other in nav)
    site = {'README.md': 'index.md', 'README_zh-CN.md': 'index_zh-CN.md'}
    assert nav == sorted(site.get(page.name, page.relative_to(page.parent).as_posix()) for page in PAGES)


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_and_anchors_are_there(page):
    for link in re.findall(r'\]\(([^)\s]+)\)', prose(page)):
        if '://' in link:
            continue
        path, _, anchor = link.partition('#')
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_class_that_a_config_can_name_is_in_the_reference():
    from beit_mm import registry

    page = (ROOT / 'docs/api.md').read_text()
    names = set()
    for kind in registry._MODULES:
        children = getattr(registry, kind)
        children.import_from_location()
        names |= {cls.__name__ for cls in children.module_dict.values()}
    assert len(names) > 30
    assert {name for name in names if not re.search(rf'\b{name}\b', page)} == set()


def test_each_symbol_of_the_paper_has_its_place_in_the_code():
    table = (ROOT / 'docs/design.md').read_text().split('| symbol |')[1].split('\n\n')[0]
    rows = [line.strip('| ').split(' | ') for line in table.splitlines()[2:]]
    assert len(rows) > 20
    for symbol, names, path in rows:
        code = (ROOT / path.strip('`')).read_text()
        for name in re.findall('`(.+?)`', names):
            assert all(re.search(rf'\b{part}\b', code) for part in name.split('.')), (symbol, name)

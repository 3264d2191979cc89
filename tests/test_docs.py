"""docs/: each page is in the navigation, links and anchors are there, and what is named has that name in the code."""

import importlib.util
import inspect
import re
from pathlib import Path

import pages
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

import beit_mm.registry
from beit_mm.config_check.comparison import compare
from beit_mm.config_check.paper import find_nearest
from beit_mm.config_check.summary import summarize

ROOT = Path(__file__).parents[1]
BESIDE = (
    'README.md',
    'README_zh-CN.md',
    'CONTRIBUTING.md',
    'CHANGELOG.md',
)  # pages of the site that lie beside docs/
PAGES = [*(ROOT / 'docs').rglob('*.md'), *(ROOT / name for name in BESIDE)]


def prose(page: Path) -> str:
    return re.sub(r'^```.*?^```', '', page.read_text(), flags=re.S | re.M)


def anchors(page: Path) -> set[str]:
    """GitHub's, which the site has as well."""
    titles = re.findall(r'^#+ (.+)', prose(page), re.M)
    return {re.sub(r'[^\w -]', '', title.lower()).replace(' ', '-') for title in titles}


def test_every_page_is_in_the_navigation():
    nav = re.findall(
        r'^ +- ([\w./-]+\.md)$|^  - (\w+\.md)$', (ROOT / 'mkdocs.yml').read_text(), re.M
    )
    nav = sorted(one or other for one, other in nav)
    site = {'README.md': 'index.md', 'README_zh-CN.md': 'index_zh-CN.md'}
    assert nav == sorted(
        site.get(page.name, page.relative_to(page.parent).as_posix()) for page in PAGES
    )


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
    page = (ROOT / 'docs/api.md').read_text()
    names = set()
    for kind in beit_mm.registry._MODULES:
        children = getattr(beit_mm.registry, kind)
        children.import_from_location()
        # Other tests register toys.
        names |= {
            cls.__name__
            for cls in children.module_dict.values()
            if cls.__module__.startswith('beit_mm.')
        }
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


MIGRATION = (ROOT / 'docs/migration.md').read_text()


def table(title: str) -> list[tuple[list[str], list[str]]]:
    """Names in backticks, without values, of both columns of the table that is headed so."""
    rows = MIGRATION.split(f'| {title}')[1].split('\n\n')[0].splitlines()[2:]
    cells = [row.strip('| ').split(' | ') for row in rows]
    return [
        tuple([name.split('=')[0] for name in re.findall('`(.+?)`', cell)] for cell in pair)
        for pair in cells
    ]


@pytest.mark.parametrize(
    ('title', 'module', 'name'),
    [
        ('BEiTViT, BEiTPretrainViT', 'mmpretrain.models', 'BEiTViT'),
        ("mmseg's BEiT", 'mmseg.models.backbones', 'BEiT'),
        ('BeitConfig', 'transformers', 'BeitConfig'),
        ("timm's Beit", 'timm.models.beit', 'Beit'),
    ],
)
def test_arguments_of_a_peer_and_ours_are_called_so(title, module, name):
    from beit_mm.models import BEiT

    peer = getattr(pytest.importorskip(module), name)
    for theirs, ours in table(title):
        assert theirs and set(theirs) <= set(inspect.signature(peer).parameters)
        assert set(ours) <= set(inspect.signature(BEiT).parameters)


@pytest.mark.parametrize(
    ('title', 'config'),
    [
        ('run_beit_pretraining.py', 'pretrain/beit_beit-base-p16_8xb256-amp-coslr-300e_in1k'),
        ('run_class_finetuning.py', 'classification/beit-base-p16_8xb128-amp-coslr-100e_in1k'),
    ],
)
def test_keys_in_place_of_the_official_options_are_the_configs(title, config):
    cfg, optional = (
        Config.fromfile(ROOT / f'configs/{config}.py'),
        ('optim_wrapper.accumulative_counts',),
    )
    for options, keys in table(title):
        assert options
        for key in keys:
            if re.fullmatch(r'[a-z_]+(\.\w+)+', key) and key not in optional:
                node = cfg
                for part in key.split('.'):
                    node = node[int(part) if part.isdigit() else part]


@pytest.mark.parametrize(
    ('host', 'theirs'),
    [
        ('mmpretrain', 'beit/benchmarks/beit-base-p16_8xb128-coslr-100e_in1k.py'),
        ('mmseg', 'beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py'),
    ],
)
def test_our_backbone_and_rates_take_the_place_of_a_hosts(host, theirs, tmp_path):
    base = Path(importlib.util.find_spec(host).origin).parent / '.mim/configs' / theirs
    snippet = next(block for block in pages.blocks(MIGRATION.split(f'## {host}')[1], 'python'))
    assert base.name in MIGRATION
    (tmp_path / 'mine.py').write_text(f"_base_ = '{base}'\n{snippet}")
    cfg = Config.fromfile(tmp_path / 'mine.py')
    init_default_scope(host)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
        size = model.backbone.grid[0] * 16
        out = model.eval()(torch.zeros(1, 3, size, size))
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    assert type(model.backbone).__module__ == 'beit_mm.models.beit' and out.shape[1] in (150, 1000)
    assert len({group['lr'] for group in groups}) == 14


CROPS = ('TwoViews', 'RandomResizedCrop')
FAQ = pages.blocks((ROOT / 'docs/faq.md').read_text(), 'python')


@pytest.mark.parametrize(
    'snippet', [block for block in FAQ if pages.file_of(block)], ids=pages.file_of
)
def test_configs_of_the_questions_contradict_nothing_and_build(snippet, tmp_path):
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    (tmp_path / 'my').mkdir()
    path = tmp_path / pages.file_of(snippet)
    path.write_text(snippet)
    cfg = Config.fromfile(path)
    summary = summarize(cfg.to_dict(), 8)
    assert not any(finding.stops for finding in compare(summary, find_nearest(summary)[0]))
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    crop = next(
        step.get('size', step.get('scale')) for step in cfg.train_pipeline if step.type in CROPS
    )
    assert crop == model.backbone.grid[0] * 16 == cfg.model.backbone.img_size


def in_step(text: str) -> dict:
    """What does not depend on the language, in its order."""
    prose = re.sub(r'^```.*?^```', '', text, flags=re.S | re.M)
    return dict(
        blocks=re.findall(r'^```.*?^```', text, re.S | re.M),
        headings=re.findall(r'^#+', prose, re.M),
        links=sorted(link for link in re.findall(r'\]\(([^)]+)\)', prose) if 'README' not in link),
        code=sorted(re.findall(r'`[^`\n]+`', prose)),
        figures=sorted(re.findall(r'\d+\.\d+', prose)),
        rows=len(re.findall(r'^\|', prose, re.M)),
    )


def test_the_chinese_readme_says_what_the_english_one_says():
    english, chinese = ((ROOT / name).read_text() for name in ('README.md', 'README_zh-CN.md'))
    assert (
        '(README_zh-CN.md)' in english.split('## ')[0] and '(README.md)' in chinese.split('## ')[0]
    )
    ours, theirs = in_step(english), in_step(chinese)
    for part, value in ours.items():
        assert value == theirs[part], part

"""docs/: links, names in the code, values in the configs, the Chinese README."""

import importlib.util
import inspect
import re
from pathlib import Path

import pages
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, Registry, init_default_scope
from mmengine.utils import get_object_from_string
from small import CONFIGS, load

import beit_mm.registry
from beit_mm.config_check.comparison import compare
from beit_mm.config_check.paper import find_nearest
from beit_mm.config_check.summary import summarize
from beit_mm.models import BEiT

ROOT = Path(__file__).parents[1]
OUTSIDE = ('README.md', 'README_zh-CN.md', 'CONTRIBUTING.md', 'CHANGELOG.md')  # pages of the site
PAGES = [*(ROOT / 'docs').rglob('*.md'), *(ROOT / name for name in OUTSIDE)]
FAQ, MIGRATION, OWN_IMAGES, REPRODUCE = (
    (ROOT / f'docs/{name}.md').read_text()
    for name in ('faq', 'migration', 'own_images', 'reproduce')
)
README = (ROOT / 'README.md').read_text()


def prose(text: str) -> str:
    return re.sub(r'^```.*?^```', '', text, flags=re.S | re.M)


def table_rows(text: str, title: str) -> list[list[str]]:
    """Return the cells of the table whose header starts with this title."""
    lines = text.split(f'| {title}')[1].split('\n\n')[0].splitlines()[2:]
    return [line.strip('| ').split(' | ') for line in lines]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_exist_in_the_repository(page):
    """`mkdocs build --strict` checks anchors, the navigation, and links between pages of the site."""
    for link in re.findall(r'\]\(([^)\s#]+)', prose(page.read_text())):
        assert '://' in link or (page.parent / link).exists(), link


def test_files_that_the_readme_names_exist():
    named = re.findall(r'\b((?:configs|tools|docs|requirements)/[\w./+-]*\w)', README)
    assert len(named) > 20 and [path for path in named if not (ROOT / path).exists()] == []


def test_every_registered_class_is_in_the_reference():
    page = (ROOT / 'docs/api.md').read_text()
    names = set()
    for registry in vars(beit_mm.registry).values():
        if not isinstance(registry, Registry):
            continue
        registry.import_from_location()
        classes = registry.module_dict.values()  # also toys of other tests
        names |= {cls.__name__ for cls in classes if cls.__module__.startswith('beit_mm.')}
    assert len(names) > 30
    assert {name for name in names if not re.search(rf'\b{name}\b', page)} == set()


def test_every_name_in_the_reference_exists():
    """mkdocstrings skips members that do not exist without a message."""
    page = (ROOT / 'docs/api.md').read_text()
    blocks = re.split(r'^::: ', page, flags=re.M)[1:]
    assert len(blocks) > 40
    for block in blocks:
        path = block.split()[0]
        owner = get_object_from_string(path)
        members = re.search(r'members: \[(.+)\]', block)
        for name in members[1].split(', ') if members else ():
            assert hasattr(owner, name), (path, name)


def test_each_symbol_of_the_paper_is_in_the_file_that_the_table_names():
    rows = table_rows((ROOT / 'docs/design.md').read_text(), 'symbol |')
    assert len(rows) > 20
    for symbol, names, path in rows:
        code = (ROOT / path.strip('`')).read_text()
        for name in re.findall('`(.+?)`', names):
            assert all(re.search(rf'\b{part}\b', code) for part in name.split('.')), (symbol, name)


def names_in(cell: str) -> list[str]:
    return [name.split('=')[0] for name in re.findall('`(.+?)`', cell)]


@pytest.mark.parametrize(
    ('title', 'module', 'name'),
    [
        ('BEiTViT, BEiTPretrainViT', 'mmpretrain.models', 'BEiTViT'),
        ("mmseg's BEiT", 'mmseg.models.backbones', 'BEiT'),
        ('BeitConfig', 'transformers', 'BeitConfig'),
        ("timm's Beit", 'timm.models.beit', 'Beit'),
    ],
)
def test_tables_of_arguments_name_arguments_of_both_projects(title, module, name):
    other = getattr(pytest.importorskip(module), name)
    for theirs, ours in table_rows(MIGRATION, title):
        assert (
            names_in(theirs) and set(names_in(theirs)) <= inspect.signature(other).parameters.keys()
        )
        assert set(names_in(ours)) <= inspect.signature(BEiT).parameters.keys()


@pytest.mark.parametrize(
    ('title', 'config'),
    [
        ('run_beit_pretraining.py', 'pretrain/beit_beit-base-p16_8xb256-amp-coslr-300e_in1k'),
        ('run_class_finetuning.py', 'classification/beit-base-p16_8xb128-amp-coslr-100e_in1k'),
    ],
)
def test_keys_for_the_official_options_are_in_the_config(title, config):
    cfg = load(config)
    for options, keys in table_rows(MIGRATION, title):
        assert names_in(options)
        for key in names_in(keys):
            is_key = re.fullmatch(r'[a-z_]+(\.\w+)+', key)
            if is_key and key != 'optim_wrapper.accumulative_counts':  # optional
                node = cfg
                for part in key.split('.'):
                    node = node[int(part) if part.isdigit() else part]


@pytest.mark.parametrize(
    ('host', 'base'),
    [
        ('mmpretrain', 'beit/benchmarks/beit-base-p16_8xb128-coslr-100e_in1k.py'),
        ('mmpretrain', 'resnet/resnet50_8xb32_in1k.py'),
        ('mmseg', 'beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py'),
        ('mmseg', 'fcn/fcn_r50-d8_4xb4-160k_ade20k-512x512.py'),
    ],
)
def test_our_backbone_builds_in_a_config_of_another_project(host, base, tmp_path):
    path = Path(importlib.util.find_spec(host).origin).parent / '.mim/configs' / base
    if base.startswith('beit/'):
        assert path.name in MIGRATION
        snippet = pages.blocks(MIGRATION.split(f'## {host}')[1], 'python')[0]
    else:
        snippets = pages.blocks(README + OWN_IMAGES, 'python')
        rates = next(text for text in snippets if text.startswith('optim_wrapper'))
        snippet = rates + next(text for text in snippets if f"'{path.name}'" in text)
    snippet = re.sub('^_base_ = .*', '', snippet, flags=re.M)
    (tmp_path / 'mine.py').write_text(f"_base_ = '{path}'\n{snippet}")
    cfg = Config.fromfile(tmp_path / 'mine.py')
    init_default_scope(host)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
        size = model.backbone.grid[0] * 16
        out = model.eval()(torch.zeros(1, 3, size, size))
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    assert isinstance(model.backbone, BEiT) and out.shape[1] in (150, 1000)
    assert len({group['lr'] for group in groups}) == 14  # embeddings, twelve blocks, the rest


CONFIGS_IN_FAQ = [block for block in pages.blocks(FAQ, 'python') if pages.file_of(block)]


@pytest.mark.parametrize('snippet', CONFIGS_IN_FAQ, ids=pages.file_of)
def test_configs_of_the_faq_build_and_contradict_nothing(snippet, tmp_path):
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
    crop = next(s for s in cfg.train_pipeline if s.type in ('TwoViews', 'RandomResizedCrop'))
    size = crop.get('size', crop.get('scale'))
    assert size == model.backbone.grid[0] * 16 == cfg.model.backbone.img_size


def without_language(text: str) -> dict:
    """Return what a translation keeps: code, headings, links, numbers, rows of tables."""
    words = prose(text)
    links = re.findall(r'\]\(([^)]+)\)', words)
    return dict(
        blocks=re.findall(r'^```.*?^```', text, re.S | re.M),
        headings=re.findall(r'^#+', words, re.M),
        links=sorted(link for link in links if 'README' not in link),
        code=sorted(re.findall(r'`[^`\n]+`', words)),
        numbers=sorted(re.findall(r'\d+\.\d+', words)),
        rows=len(re.findall(r'^\|', words, re.M)),
    )


def test_the_chinese_readme_has_the_code_links_and_numbers_of_the_english_one():
    english, chinese = ((ROOT / name).read_text() for name in ('README.md', 'README_zh-CN.md'))
    assert '(README_zh-CN.md)' in english.split('## ')[0]
    assert '(README.md)' in chinese.split('## ')[0]
    assert without_language(english) == without_language(chinese)


# -- docs/reproduce.md -------------------------------------------------------------------------------

PATH = re.compile(r'configs/([\w/.-]+)\.py')
RECIPES = [line for line in REPRODUCE.splitlines() if line.startswith('| ') and PATH.search(line)]
ABLATIONS = [n for n in CONFIGS if n.startswith('ablations/') and 'layer-scale' not in n]


def header(name: str) -> str:
    return CONFIGS[name].read_text().split('_base_ =')[0]


def test_the_tables_of_recipes_name_every_config():
    names = {name for name in CONFIGS if not name.startswith('quickstart')}
    assert set(PATH.findall(REPRODUCE)) == names


@pytest.mark.parametrize('line', RECIPES, ids=lambda line: line.split('|')[1].strip())
def test_published_values_are_those_in_the_headers_of_the_configs(line):
    names = PATH.findall(line)
    number = re.compile(r'\b\d\d\.\d+\b')
    stated = set(map(float, number.findall(' '.join(map(header, names)))))
    assert set(map(float, number.findall(PATH.sub('', line)))) <= stated


@pytest.mark.parametrize('name', ABLATIONS)
def test_commands_of_an_ablation_start_from_its_last_checkpoint(name):
    text = header(name)
    assert f'run=work_dirs/{name.split("/")[1]}\n' in text
    epochs = str(load(name).train_cfg.max_epochs)
    assert re.findall(r'checkpoint=\$run/epoch_(\d+)\.pth', text) == [epochs] * 2
    assert len(PATH.findall(text)) == 3 and set(PATH.findall(text)) <= set(CONFIGS)

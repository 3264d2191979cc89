"""docs/reproduce.md names every recipe, and nothing that is not there; its figures are those in the configs' heads."""

import re

import pytest
from small import CONFIGS, ROOT, load

pytestmark = pytest.mark.any_stack

PAGE = (ROOT / 'docs/reproduce.md').read_text()
PATH = re.compile(r'configs/([\w/.-]+)\.py')
FIGURE = re.compile(r'\b\d\d\.\d+\b')
ROWS = [line for line in PAGE.splitlines() if line.startswith('| ') and PATH.search(line)]


def test_every_recipe_is_in_a_table_and_every_config_named_is_there():
    named = set(PATH.findall(PAGE))
    recipes = {
        name for name in CONFIGS if not name.startswith('quickstart/') and not name.endswith('_ms')
    }
    assert named == recipes
    assert {name + '_ms' for name in recipes if name.startswith('segmentation/')} <= set(CONFIGS)


@pytest.mark.parametrize('row', ROWS, ids=lambda row: row.split('|')[1].strip())
def test_the_figures_of_a_row_stand_in_the_heads_of_its_configs(row):
    named = PATH.findall(row)
    named += [name + '_ms' for name in named if name + '_ms' in CONFIGS]
    heads = ' '.join(CONFIGS[name].read_text().split('_base_ =')[0] for name in named)
    stated = {float(figure) for figure in FIGURE.findall(heads)}
    published = {float(figure) for figure in FIGURE.findall(PATH.sub('', row))}
    assert published <= stated, published - stated


def test_it_says_that_the_figures_are_others():
    assert 'This project has not reproduced any of them' in PAGE


def test_links_and_anchors_are_there():
    for target, anchor in re.findall(r'\]\(([\w./-]+)#([\w-]+)\)', PAGE):
        text = (ROOT / 'docs' / target).read_text()
        titles = [
            re.sub(r'[^\w -]', '', line.lstrip('# ').lower()).replace(' ', '-')
            for line in text.splitlines()
            if line[:1] == '#'
        ]
        assert anchor in titles, (target, anchor)


@pytest.mark.parametrize(
    'name',
    [name for name in CONFIGS if name.startswith('ablations/') and 'layer-scale' not in name],
)
def test_the_fine_tunings_that_an_ablations_head_names_start_from_its_last_checkpoint(name):
    head = CONFIGS[name].read_text().split('_base_ =')[0]
    assert f'run=work_dirs/{name.split("/")[1]}\n' in head
    assert (
        re.findall(r'checkpoint=\$run/epoch_(\d+)\.pth', head)
        == [str(load(name).train_cfg.max_epochs)] * 2
    )
    assert len(PATH.findall(head)) == 3 and set(PATH.findall(head)) <= set(CONFIGS)

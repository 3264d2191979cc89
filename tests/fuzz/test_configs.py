"""Configs with misspelled or missing keys and values of other types: preflight never fails."""

import copy
import functools
import operator
from collections.abc import Iterator

import pytest
import torch
from fuzz import test_data, test_engine, test_models
from fuzz.chance import examples
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.registry import Registry
from small import CONFIGS, load

import beit_mm.registry
from beit_mm.config_check.preflight import preflight
from beit_mm.config_check.report import format_list
from beit_mm.models import BEiT
from beit_mm.utils.config_tree import kind

pytestmark = pytest.mark.any_stack

NAMES = [name for name in CONFIGS if 'large' not in name]
OURS = test_models.FUZZED | test_data.FUZZED | test_engine.FUZZED
VALUES = [
    None, True, -1, 0, 2.5, float('nan'), float('inf'), 'other', '', 'model', '/', [], [1], ['a'],
    [[]], [None], {}, {'a': 1}, dict(type='BEiT'), dict(type='nowhere.X'), dict(type=3),
    dict(type=None), [dict(type='Anneal')], dict(type=['a']),
]  # fmt: skip
CHANGES = ['misspell key', 'misspell value', 'remove', *['replace'] * 3]


@functools.cache  # a fixture would be printed by each failure
def config(name: str) -> dict:
    return load(name).to_dict()


def paths(tree: object, path: tuple = ()) -> Iterator[tuple]:
    """Yield the path of every key and index of a nested config."""
    keys = tree if isinstance(tree, dict) else ()
    if isinstance(tree, list):
        keys = range(len(tree))
    for key in keys:
        yield (*path, key)
        yield from paths(tree[key], (*path, key))


def look_up(tree: object, path: tuple) -> object:
    return functools.reduce(operator.getitem, path, tree)


def misspell(word: str, place: int) -> str:
    """Exchange two letters, or double the last one."""
    place %= max(len(word) - 1, 1)
    other = word[:place] + word[place : place + 2][::-1] + word[place + 2 :]
    return other if other != word else word + word[-1:]


def mutate(cfg: dict, data: st.DataObject) -> str:
    path = data.draw(st.sampled_from(list(paths(cfg))))
    node, key = look_up(cfg, path[:-1]), path[-1]
    change, place = data.draw(st.sampled_from(CHANGES)), data.draw(st.integers(0, 30))
    if change == 'misspell key' and isinstance(key, str):
        node[misspell(key, place)] = node.pop(key)
    elif change == 'misspell value' and isinstance(node[key], str):
        node[key] = misspell(node[key], place)
    elif change == 'remove':
        del node[key]
    else:
        node[key] = copy.deepcopy(data.draw(st.sampled_from(VALUES)))
    return f'{change} {".".join(map(str, path))}'


@examples(10)
@given(data=st.data())
def test_preflight_of_any_config_is_a_list_of_findings(data, weights):
    cfg = copy.deepcopy(config(data.draw(st.sampled_from(NAMES))))
    if data.draw(st.booleans()):
        cfg['load_from'] = weights  # then the model is built and compared
    changes = [mutate(cfg, data) for _ in range(data.draw(st.integers(1, 3)))]
    cfg = Config(cfg)
    try:
        findings = preflight(cfg, data.draw(st.integers(1, 8)))
    except Exception as error:
        raise AssertionError(f'{changes}: {type(error).__name__}: {error}') from error
    assert all(each.effect for each in findings)
    assert format_list(cfg, findings).count('\n') >= len(findings)


@pytest.fixture(scope='module')
def weights(tmp_path_factory) -> str:
    arch = dict(embed_dims=8, num_layers=1, num_heads=1, feedforward_channels=8)
    path = tmp_path_factory.mktemp('weights') / 'a.pth'
    torch.save(BEiT(arch=arch).state_dict(), path)
    return str(path)


def is_our_argument(cfg: dict, path: tuple) -> bool:
    node, key = look_up(cfg, path[:-1]), str(path[-1])
    is_ours = kind(node) in OURS and cfg['default_scope'] == 'beit_mm'
    is_ours |= kind(node) != '' and str(node['type']).startswith('beit_mm.')
    is_checked = path[0] in ('model', 'train_dataloader', 'custom_hooks') and len(key) > 2
    return is_ours and is_checked and key not in ('type', 'init_cfg', 'data_preprocessor')


@examples(10)
@given(data=st.data())
def test_a_misspelled_argument_of_our_classes_is_named_with_its_place(data):
    cfg = copy.deepcopy(config(data.draw(st.sampled_from(NAMES))))
    path = data.draw(st.sampled_from([each for each in paths(cfg) if is_our_argument(cfg, each)]))
    node, wrong = look_up(cfg, path[:-1]), misspell(path[-1], data.draw(st.integers(0, 30)))
    node[wrong] = node.pop(path[-1])
    place = '.'.join(map(str, (*path[:-1], wrong)))
    assert any(place in str(each) and each.stops for each in preflight(Config(cfg))), place
    return 'refused'


def test_each_registered_class_is_fuzzed_and_no_other():
    registries = [each for each in vars(beit_mm.registry).values() if isinstance(each, Registry)]
    for registry in registries:
        registry.import_from_location()
    classes = {name: each for registry in registries for name, each in registry.module_dict.items()}
    ours = {name for name, each in classes.items() if each.__module__.startswith('beit_mm.')}
    assert {name for name in ours if isinstance(classes[name], type)} == OURS

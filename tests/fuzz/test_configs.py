"""Configs with keys that are misspelled or gone and values of other types: preflight says so, and never fails itself."""

import copy
import functools
from collections.abc import Iterator

import pytest
import torch
from fuzz import test_data, test_engine, test_models
from fuzz.chance import examples
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config
from small import kind, load

from beit_mm.config_check.finding import Finding
from beit_mm.config_check.preflight import preflight
from beit_mm.config_check.report import format_list
from beit_mm.models import BEiT

pytestmark = pytest.mark.any_stack

NAMES = [
    *(
        f'quickstart/{stage}'
        for stage in ('tokenizer', 'pretrain', 'classification', 'segmentation')
    ),
    'pretrain/beit_vit-base-p16_8xb256-amp-coslr-800e_in1k',
    'ablations/beit_vit-base-p16_pixels_8xb256-amp-coslr-300e_in1k',
    'classification/vit-base-p16_linear-probe_8xb128-amp-coslr-50e_in1k',
    'segmentation/beit-base_upernet_8xb2-amp-160k_ade20k-512x512',
]
OURS = test_models.FUZZED | test_data.FUZZED | test_engine.FUZZED
values = st.sampled_from(
    [
        *(None, True, -1, 0, 2.5, float('nan'), float('inf'), 'other', '', 'model', '/'),
        *([], [1], ['a'], [[]], [None], {}, {'a': 1}, dict(type='BEiT'), dict(type='nowhere.X')),
        *(dict(type=3), dict(type=None), [dict(type='Anneal')], dict(type=['a'])),
    ]
)


@functools.cache  # no fixture, which a failure would print
def config(name: str) -> dict:
    return load(name).to_dict()


def places(tree: object, path: tuple = ()) -> Iterator[tuple]:
    """Every key and index of a nested config."""
    for key, child in (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    ):
        yield (*path, key)
        yield from places(child, (*path, key))


def at(tree: object, path: tuple) -> object:
    for key in path:
        tree = tree[key]
    return tree


def misspelled(word: str, place: int) -> str:
    """Two letters exchanged, or the last one doubled."""
    place %= max(len(word) - 1, 1)
    other = word[:place] + word[place : place + 2][::-1] + word[place + 2 :]
    return other if other != word else word + word[-1:]


def mutate(cfg: dict, data: st.DataObject) -> str:
    path = data.draw(st.sampled_from(list(places(cfg))))
    node, key = at(cfg, path[:-1]), path[-1]
    how = data.draw(
        st.sampled_from(
            ['misspell', 'remove', 'replace', 'replace', 'replace', 'misspell the value']
        )
    )
    if how == 'misspell' and isinstance(key, str):
        node[misspelled(key, data.draw(st.integers(0, 30)))] = node.pop(key)
    elif how == 'misspell the value' and isinstance(node[key], str):
        node[key] = misspelled(node[key], data.draw(st.integers(0, 30)))
    elif how == 'remove':
        del node[key]
    else:
        node[key] = copy.deepcopy(data.draw(values))
    return f'{how} {".".join(map(str, path))}'


@examples(10)
@given(data=st.data())
def test_preflight_of_any_config_is_a_list_of_words(data, weights):
    cfg = copy.deepcopy(config(data.draw(st.sampled_from(NAMES))))
    if data.draw(st.booleans()):
        cfg['load_from'] = weights  # then the model is built, and compared
    done = [mutate(cfg, data) for _ in range(data.draw(st.integers(1, 3)))]
    cfg = Config(cfg)
    try:
        found = preflight(cfg, data.draw(st.integers(1, 8)))
    except Exception as error:
        raise AssertionError(f'{done}: {type(error).__name__}: {error}') from error
    assert all(isinstance(each, Finding) and each.effect for each in found)
    assert format_list(cfg, found).count('\n') >= len(found)


@pytest.fixture(scope='module')
def weights(tmp_path_factory) -> str:
    arch = dict(embed_dims=8, num_layers=1, num_heads=1, feedforward_channels=8)
    path = tmp_path_factory.mktemp('weights') / 'a.pth'
    torch.save({f'backbone.{k}': v for k, v in BEiT(arch=arch).state_dict().items()}, path)
    return str(path)


@examples(10)
@given(data=st.data())
def test_a_misspelled_argument_of_our_classes_is_named_with_its_place(data):
    cfg = copy.deepcopy(config(data.draw(st.sampled_from(NAMES))))
    ours = [
        path
        for path in places(cfg)
        if len(path) > 1
        and path[0] in ('model', 'train_dataloader', 'custom_hooks')
        and isinstance(node := at(cfg, path[:-1]), dict)
        and (
            kind(node) in OURS
            if cfg['default_scope'] == 'beit_mm'
            else str(node.get('type')).startswith('beit_mm.')
        )
        and path[-1] not in ('type', 'init_cfg', 'data_preprocessor')
        and len(path[-1]) > 2
    ]
    path = data.draw(st.sampled_from(ours))
    node, wrong = at(cfg, path[:-1]), misspelled(path[-1], data.draw(st.integers(0, 30)))
    node[wrong] = node.pop(path[-1])
    place = '.'.join(map(str, (*path[:-1], wrong)))
    assert any(place in str(each) and each.stops for each in preflight(Config(cfg))), place
    return 'refused'

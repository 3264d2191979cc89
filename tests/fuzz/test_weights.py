"""Weights with keys that are gone, renamed, reshaped or NaN: an error that names them, and nothing is loaded."""

import math

import pytest
import torch
from fuzz.chance import examples
from hypothesis import given
from hypothesis import strategies as st

from beit_mm.checkpoint import load_backbone, load_tokenizer
from beit_mm.checkpoint.origins import NAMES, from_ours
from beit_mm.models import BEiT, DiscreteVAE

pytestmark = pytest.mark.any_stack

ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
MIM = dict(
    arch=ARCH, img_size=32, patch_size=8, rel_pos_bias='shared', layer_scale=0.1, mask_token=True
)
CLASSIFIER = dict(
    arch=ARCH,
    img_size=32,
    patch_size=8,
    rel_pos_bias='per_layer',
    layer_scale=0.1,
    out_type='avg_featmap',
)
VAE = dict(vocab_size=6, width=4, groups=2, blocks=1, width_in=4)


def removed(state: dict, key: str) -> None:
    del state[key]


def renamed(state: dict, key: str) -> None:
    state[key + '_'] = state.pop(key)


def reshaped(state: dict, key: str) -> None:
    state[key] = torch.zeros(*state[key].shape, 2)


def without_numbers(state: dict, key: str) -> None:
    state[key] = torch.full_like(state[key], math.nan)


DAMAGES = [removed, renamed, reshaped, without_numbers]


@examples(120)
@given(data=st.data())
def test_broken_weights_are_an_error_that_names_the_key_and_nothing_is_loaded(
    data, tmp_path_factory
):
    source, target = BEiT(**MIM), BEiT(**CLASSIFIER)
    state = {f'backbone.{k}': torch.randn_like(v) for k, v in source.state_dict().items()}
    for key in ('backbone.mask_token', 'backbone.norm.weight', 'backbone.norm.bias'):
        del state[key]  # skipped on purpose, whatever they hold
    written = from_ours(state, data.draw(st.sampled_from(['beit_mm', 'unilm', 'hf', 'mmpretrain'])))
    damaged(data, [k for k in written if not k.endswith('relative_position_index')], written)
    nothing_is_loaded(load_backbone, target, written, tmp_path_factory.mktemp('fuzz') / 'a.pth')
    return 'refused'


@examples(40)
@given(data=st.data())
def test_a_broken_tokenizer_is_an_error_that_names_the_key_and_nothing_is_loaded(
    data, tmp_path_factory
):
    written, target = dict(DiscreteVAE(**VAE).state_dict()), DiscreteVAE(**VAE)
    damaged(data, list(written), written)
    nothing_is_loaded(load_tokenizer, target, written, tmp_path_factory.mktemp('fuzz') / 'a.pth')
    return 'refused'


def damaged(data: st.DataObject, keys: list[str], state: dict) -> None:
    for key in data.draw(st.lists(st.sampled_from(keys), min_size=1, max_size=3, unique=True)):
        data.draw(st.sampled_from(DAMAGES))(state, key)


def nothing_is_loaded(load, target: torch.nn.Module, written: dict, path) -> None:
    torch.save(written, path)
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(ValueError) as raised:
        load(target, str(path))
    assert str(path) in str(raised.value) or 'no BEiT' in str(raised.value)
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())


def test_every_origin_has_names():
    assert set(NAMES) == {'beit_mm', 'unilm', 'timm', 'hf', 'mmpretrain', 'mmseg'}

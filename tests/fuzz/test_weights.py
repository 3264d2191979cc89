"""Weights with keys that are gone, renamed, reshaped or NaN are an error, and nothing is loaded."""

import math

import pytest
import torch
from fuzz.chance import examples
from hypothesis import given
from hypothesis import strategies as st
from small import same_tensors

from beit_mm.checkpoint import load_backbone, load_tokenizer
from beit_mm.checkpoint.origins import from_ours
from beit_mm.models import BEiT, DiscreteVAE

pytestmark = pytest.mark.any_stack

ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
SIZES = dict(arch=ARCH, img_size=32, patch_size=8, layer_scale=0.1)
MIM = dict(SIZES, rel_pos_bias='shared', mask_token=True)
CLASSIFIER = dict(SIZES, rel_pos_bias='per_layer', out_type='avg_featmap')
VAE = dict(vocab_size=6, width=4, groups=2, blocks=1, width_in=4)
DAMAGES = [
    lambda key, value: {},
    lambda key, value: {f'{key}_': value},
    lambda key, value: {key: torch.zeros(*value.shape, 2)},
    lambda key, value: {key: torch.full_like(value, math.nan)},
]


@examples(160)
@given(
    origin=st.sampled_from(['beit_mm', 'unilm', 'hf', 'mmpretrain', 'tokenizer']), data=st.data()
)
def test_broken_weights_are_an_error_and_nothing_is_loaded(origin, data, tmp_path_factory):
    load, model, path = load_backbone, BEiT(**CLASSIFIER), tmp_path_factory.mktemp('fuzz') / 'a.pth'
    if origin == 'tokenizer':
        load, model = load_tokenizer, DiscreteVAE(**VAE)
        state = dict(model.state_dict())
    else:
        state = BEiT(**MIM).state_dict()
        for key in ('mask_token', 'norm.weight', 'norm.bias'):  # skipped, whatever they hold
            del state[key]
        state = {f'backbone.{key}': torch.randn_like(value) for key, value in state.items()}
        state = from_ours(state, origin)
    keys = [key for key in state if not key.endswith('relative_position_index')]
    for key in data.draw(st.lists(st.sampled_from(keys), min_size=1, max_size=3, unique=True)):
        state |= data.draw(st.sampled_from(DAMAGES))(key, state.pop(key))
    torch.save(state, path)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=str(path)):
        load(model, str(path))
    assert same_tensors(before, model.state_dict())
    return 'refused'

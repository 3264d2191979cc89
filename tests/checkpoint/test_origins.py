"""Keys identify their project and are converted to our names; test_convert.py goes there and back."""

import pytest
import torch
from small import same_tensors

from beit_mm.checkpoint.origins import from_ours, identify, to_dalle, to_ours

pytestmark = pytest.mark.any_stack


def test_a_complete_pre_training_of_mmpretrain_is_read_without_its_tokenizer(make_state):
    state = make_state('mim')
    written = from_ours(state, 'mmpretrain')
    written |= {f'target_generator.{k}': v for k, v in to_dalle(make_state('tokenizer')).items()}
    written['data_preprocessor.mean'] = torch.zeros(3)
    assert identify(written) == 'mmpretrain'
    back, skipped = to_ours(written, 'mmpretrain')
    assert same_tensors(back, state)
    assert skipped['target_generator.blocks.input.w'] == 'the tokenizer, which has its own file'
    assert skipped['data_preprocessor.mean'] == 'the config has the normalization'


def test_another_network_is_an_error_that_shows_its_keys():
    with pytest.raises(ValueError, match='not the weights of a known BEiT: the keys are a .*Known'):
        identify(['a'])


@pytest.mark.parametrize(
    ('origin', 'key', 'message'),
    [
        ('hf', 'beit.layernorm.weight', 'two LayerNorms in a row, beit.layernorm and layernorm; .*model.beit.save_pretrained'),
        ('mmpretrain', 'backbone.norm.weight', 'backbone.ln1.weight and backbone.norm.weight both mean backbone.norm.weight'),
    ],
)  # fmt: skip
def test_two_keys_with_one_new_name_are_an_error_that_names_both(make_state, origin, key, message):
    written = from_ours(make_state('mim'), origin)
    with pytest.raises(ValueError, match=message):
        to_ours(written | {key: torch.zeros(1)}, origin)

"""Whose keys they are, and that no tensor is lost or changed on the way to another project and back."""

import pytest
import torch

from beit_mm.checkpoint.export import TARGETS, fit_target
from beit_mm.checkpoint.model_spec import SHARED_TABLE, TABLE, infer_spec
from beit_mm.checkpoint.origins import HF_IN_MEMORY, from_ours, identify, rename, to_dalle, to_ours

pytestmark = pytest.mark.any_stack

KINDS = [
    'mim',
    'vanilla_mim',
    'classifier',
    'vanilla_classifier',
    'cls_token_classifier',
    'segmentor',
    'backbone',
]
# (who, kind) of which two origins have the same keys: what it is taken for.
SAME_KEYS = {
    ('timm', 'backbone'): 'beit_mm',
    (
        'unilm',
        'vanilla_classifier',
    ): 'timm',  # without the wrapper 'model' that the official code writes
    ('mmseg', 'backbone'): 'mmpretrain',
}


def pairs():
    for target, kinds in TARGETS.items():
        for kind in KINDS:
            if kind.rpartition('_')[2] in kinds:
                yield target, kind


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


@pytest.mark.parametrize(('target', 'kind'), list(pairs()))
def test_there_and_back_every_bit_is_the_same(make_state, target, kind):
    state = make_state(kind)
    fitted = fit_target(state, infer_spec(state), target)[0]
    written = from_ours(fitted, target)
    if target != 'beit_mm':
        assert written.keys() != fitted.keys()
    back, left = to_ours(written, identify(written) if target != 'unilm' else 'unilm')
    assert same(back, fitted)
    assert all(key.endswith('relative_position_index') for key in left)


@pytest.mark.parametrize(('target', 'kind'), list(pairs()))
def test_the_origin_is_told_by_the_keys(make_state, target, kind):
    state = make_state(kind)
    written = from_ours(fit_target(state, infer_spec(state), target)[0], target)
    assert identify(written) == SAME_KEYS.get((target, kind), target)


def test_the_official_codes_wrapper_tells_it_from_timm(make_state):
    written = from_ours(make_state('vanilla_classifier'), 'unilm')
    assert (identify(written), identify(written, 'model')) == ('timm', 'unilm')


def test_the_tokenizer_of_dalle(make_state):
    state = make_state('tokenizer')
    encoder = to_dalle(state)
    assert 'blocks.group_2.block_1.id_path.w' in encoder and identify(encoder) == 'dall-e'
    assert same(
        to_ours(encoder, 'dall-e')[0], {k: v for k, v in state.items() if k.startswith('encoder.')}
    )
    both = {f'encoder.{k}': v for k, v in encoder.items()}
    both |= {
        f'decoder.blocks.{k.removeprefix("decoder.").replace(".weight", ".w").replace(".bias", ".b")}': v
        for k, v in state.items()
        if k.startswith('decoder.')
    }
    assert identify(both) == 'dall-e' and same(to_ours(both, 'dall-e')[0], state)


def test_a_whole_pre_training_of_mmpretrain_is_read_and_its_tokenizer_left_out(make_state):
    state = make_state('mim')
    written = from_ours(state, 'mmpretrain')
    written |= {f'target_generator.{k}': v for k, v in to_dalle(make_state('tokenizer')).items()}
    written['data_preprocessor.mean'] = torch.zeros(3)
    assert identify(written) == 'mmpretrain'
    back, left = to_ours(written, 'mmpretrain')
    assert same(back, state)
    assert left['target_generator.blocks.input.w'] == 'the tokenizer, which has its own file'
    assert left['data_preprocessor.mean'] == 'the config has the normalization'


def test_names_of_transformers_5_in_memory_are_known(make_state):
    state = make_state('segmentor')
    on_disk = from_ours(state, 'hf')
    theirs = {
        rename(key, [(old, new) for new, old in HF_IN_MEMORY]): value
        for key, value in on_disk.items()
    }
    assert (
        'beit.layers.0.attention.q_proj.weight' in theirs
        and 'fpn.fpn1.conv_transpose1.weight' in theirs
    )
    assert identify(theirs) == 'hf' and same(to_ours(theirs, 'hf')[0], state)


@pytest.mark.parametrize(
    'keys', [['layer1.0.conv1.weight'], ['encoder.layers.encoder_layer_0.mlp.0.weight'], ['a']]
)
def test_another_network_is_an_error_that_shows_its_keys(keys):
    with pytest.raises(
        ValueError,
        match=rf'not the weights of a known BEiT: the keys are {keys[0]}.*Known projects',
    ):
        identify(keys)


def test_a_key_that_no_table_knows_keeps_its_name_so_that_it_is_found():
    weights = dict.fromkeys(['beit.embeddings.cls_token', 'beit.surprise'], torch.zeros(1))
    assert 'beit.surprise' in to_ours(weights, 'hf')[0]
    lost = dict.fromkeys(['beit.encoder.layer.0.attention.attention.query.weight'], torch.zeros(1))
    assert list(to_ours(lost, 'hf')[0]) == ['backbone.blocks.0.attn.query.weight']


@pytest.mark.parametrize(
    ('origin', 'more', 'both'),
    [
        (
            'hf',
            'beit.layernorm.weight',
            'two LayerNorms in a row, beit.layernorm and layernorm; .*model.beit.save_pretrained',
        ),
        (
            'mmpretrain',
            'backbone.norm.weight',
            'backbone.ln1.weight and backbone.norm.weight both mean backbone.norm.weight',
        ),
    ],
)
def test_two_keys_that_become_one_are_an_error_that_names_both(make_state, origin, more, both):
    written = from_ours(make_state('mim'), origin)
    with pytest.raises(ValueError, match=both):
        to_ours(written | {more: torch.zeros(1)}, origin)


def test_of_a_shared_table_and_one_in_each_layer_the_sum_is_read(make_state):
    state, shared = make_state('classifier'), torch.randn(make_state('mim')[SHARED_TABLE].shape)
    found, left = to_ours(state | {SHARED_TABLE: shared}, 'beit_mm')
    assert left == {SHARED_TABLE: 'added to the table of each layer'}
    tables = [key for key in state if key.endswith(TABLE)]
    assert same(found, state | {key: state[key] + shared for key in tables})

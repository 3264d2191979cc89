"""Full-size files of BEiT v2, data2vec-vision and DiT load into every task."""

import convert
import pytest
import timm
import torch
import transformers
from torch import Tensor

from beit_mm.checkpoint import load_backbone
from beit_mm.checkpoint.fit import check_fit, fit_backbone
from beit_mm.checkpoint.origins import from_ours
from beit_mm.checkpoint.parse import parse_checkpoint
from beit_mm.checkpoint.published import NORMALIZATIONS, find_normalization
from beit_mm.checkpoint.report import KeyReport
from beit_mm.models import BEiT

pytestmark = pytest.mark.any_stack
DIT = dict(use_absolute_position_embeddings=True, use_mask_token=True)


@pytest.mark.parametrize('to', ['hf', 'beit_mm', 'timm'])
def test_a_folder_states_the_number_of_heads_that_absolute_positions_do_not(
    to, tmp_path, randomize
):
    sizes = dict(hidden_size=128, num_hidden_layers=2, intermediate_size=64, image_size=64)
    config = transformers.BeitConfig(num_attention_heads=8, num_labels=5, **sizes, **DIT)
    randomize(transformers.BeitForImageClassification(config)).save_pretrained(tmp_path / 'a')
    convert.main([str(tmp_path / 'a'), str(tmp_path / 'b'), '--to', to, '--verify'])
    arch = dict(embed_dims=128, num_layers=2, num_heads=2, feedforward_channels=64)
    model = BEiT(arch, img_size=64, abs_pos_embed=True, layer_scale=0.1, out_type='avg_featmap')
    message = r'a was trained with 8 heads, this BEiT has 2. Set arch\.num_heads=8'
    with pytest.raises(ValueError, match=message):
        load_backbone(model, str(tmp_path / 'a'))


def full_size(make, *args, **kwargs) -> dict[str, Tensor]:
    """Return a state dict with the keys and shapes of a model, without memory."""
    with torch.device('meta'):
        model = make(*args, **kwargs)
    return {key: torch.ones(()).expand(v.shape) for key, v in model.state_dict().items()}


def hugging_face(kind: str, **settings) -> dict[str, Tensor]:
    family = transformers.Data2VecVisionConfig if 'Data2Vec' in kind else transformers.BeitConfig
    return full_size(getattr(transformers, kind), family(**settings))


def beit_v2(arch: str, origin: str = 'unilm') -> dict[str, dict]:
    """Return what pre-training writes in the official code or in mmpretrain."""
    aggregation = dict(layer=dict(base=9, large=21)[arch])
    settings = dict(rel_pos_bias='shared', layer_scale=0.1, mask_token=True)
    backbone = full_size(BEiT, arch, patch_aggregation=aggregation, **settings)
    state = {f'backbone.{key}': value for key, value in backbone.items()}
    state['head.proj.weight'] = torch.zeros(()).expand(8192, backbone['cls_token'].shape[2])
    state['head.proj.bias'] = torch.zeros(8192)
    written = from_ours(state, origin)
    names = dict(
        unilm=('cls_pt_layers.1.mlp.fc1.bias', 'norm.bias'),
        mmpretrain=('neck.patch_aggregation.1.ffn.layers.0.0.bias', 'neck.norm.bias'),
    )
    assert all(name in written for name in names[origin])
    return {'model' if origin == 'unilm' else 'state_dict': written}


SHARED, OWN = dict(use_shared_relative_position_bias=True), dict(use_relative_position_bias=True)
FILES = {
    'BEiT v2 base, pre-trained': (lambda: beit_v2('base'), 'unilm', 'base'),
    'BEiT v2 large, pre-trained': (lambda: beit_v2('large'), 'unilm', 'large'),
    'BEiT v2 base of mmpretrain, pre-trained': (lambda: beit_v2('base', 'mmpretrain'), 'mmpretrain', 'base'),
    'BEiT v2 base, fine-tuned': (
        lambda: full_size(timm.create_model, 'beitv2_base_patch16_224'), 'timm', 'base'),
    'BEiT v2 large, fine-tuned': (
        lambda: full_size(timm.create_model, 'beitv2_large_patch16_224'), 'timm', 'large'),
    'data2vec base': (
        lambda: hugging_face('Data2VecVisionModel', use_mask_token=True, use_mean_pooling=False, **SHARED), 'hf', 'base'),
    'data2vec base, fine-tuned': (
        lambda: hugging_face('Data2VecVisionForImageClassification', num_labels=1000, **OWN), 'hf', 'base'),
    'DiT base': (lambda: hugging_face('BeitForMaskedImageModeling', **DIT), 'hf', 'base'),
    'DiT base, fine-tuned': (lambda: hugging_face('BeitForImageClassification', num_labels=16, **DIT), 'hf', 'base'),
}  # fmt: skip
TASKS = dict(
    backbone=dict(),
    mim=dict(mask_token=True),
    classifier=dict(out_type='avg_featmap'),
    segmentor=dict(out_type='featmap', out_indices=(3, 5, 7, 11), img_size=512),
)


@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize('name', FILES)
def test_every_key_of_a_full_size_file_is_loaded_or_skipped_for_a_reason(name, task):
    """Fine-tuned files may lack the mask token and the norm."""
    make, origin, arch = FILES[name]
    found = parse_checkpoint(make(), name)
    assert found.origin == origin
    assert all(key.endswith('relative_position_index') for key in found.skipped)
    is_v2 = 'v2' in name and 'pre-trained' in name
    fine_tuned = 'fine-tuned' in name
    per_layer = fine_tuned or task in ('classifier', 'segmentor')
    positions = dict(rel_pos_bias='per_layer' if per_layer else 'shared')
    if 'DiT' in name:
        positions = dict(abs_pos_embed=True)
    with torch.device('meta'):
        model = BEiT(arch, layer_scale=0.1, **positions, **TASKS[task])
    may_be_new = ('norm.', 'fc_norm.', 'mask_token') if fine_tuned else ('fc_norm.',)
    fitted = fit_backbone(found.part('backbone.'), model, report := KeyReport(name))
    skipped = [key for _, key, why in report.rows if "BEiT v2's patch aggregation" in why]
    assert len(skipped) == (2 * 15 if is_v2 else 0)
    check_fit(model, fitted, name, may_be_new)
    if is_v2:
        head = {key: tuple(value.shape) for key, value in found.part('head.').items()}
        assert head == {'proj.weight': (8192, model.embed_dims), 'proj.bias': (8192,)}


def test_published_names_state_the_normalization():
    for name in (
        'beitv2_base_patch16_224_pt1k_ft1k.pth',
        'beit_base_patch16_224_pt1k_800ep.pth',
        'hf://timm/beitv2_base_patch16_224.in1k_ft_in1k',
    ):
        assert find_normalization(name) == NORMALIZATIONS['imagenet']
    assert find_normalization('beit_base_patch16_224_pt22k_ft22k.pth') is None

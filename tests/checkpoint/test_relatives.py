"""BEiT v2, data2vec-vision and DiT are BEiT's architecture: their files load, and compute what their libraries compute."""

import importlib.util
from pathlib import Path

import pytest
import torch
from conversion.libraries import library_model, our_model
from torch import Tensor

from beit_mm.checkpoint import load_backbone, read_checkpoint
from beit_mm.checkpoint.fit import check_fit, fit_backbone
from beit_mm.checkpoint.model_spec import infer_spec
from beit_mm.checkpoint.origins import from_ours, identify
from beit_mm.checkpoint.parse import parse_checkpoint
from beit_mm.checkpoint.report import KeyReport
from beit_mm.models import BEiT

pytestmark = pytest.mark.any_stack

spec = importlib.util.spec_from_file_location(
    'convert', Path(__file__).parents[2] / 'tools/convert.py'
)
convert = importlib.util.module_from_spec(spec)
spec.loader.exec_module(convert)

SMALL = dict(
    hidden_size=128,
    num_hidden_layers=4,
    num_attention_heads=2,
    intermediate_size=64,
    image_size=64,
    layer_norm_eps=1e-6,
)
SHARED_TABLE, OWN = (
    dict(use_shared_relative_position_bias=True),
    dict(use_relative_position_bias=True),
)
DIT = dict(use_absolute_position_embeddings=True, use_mask_token=True)
MODELS = {
    'data2vec pre-trained': (
        'Data2VecVisionModel',
        SHARED_TABLE | dict(use_mask_token=True, use_mean_pooling=False),
    ),
    'data2vec without a norm': (
        'Data2VecVisionModel',
        SHARED_TABLE | dict(use_mask_token=True, use_mean_pooling=True),
    ),
    'data2vec classifier': ('Data2VecVisionForImageClassification', OWN | dict(num_labels=7)),
    'data2vec with both tables': (
        'Data2VecVisionForImageClassification',
        OWN | SHARED_TABLE | dict(num_labels=7),
    ),
    'data2vec UPerNet': (
        'Data2VecVisionForSemanticSegmentation',
        OWN | dict(num_labels=5, out_indices=[2, 3, 4, 5]),
    ),
    'DiT pre-trained': ('BeitForMaskedImageModeling', DIT | dict(vocab_size=20)),
    'DiT classifier': ('BeitForImageClassification', DIT | dict(num_labels=7)),
}


@pytest.mark.parametrize('name', MODELS)
@torch.no_grad()
def test_the_outputs_are_those_of_transformers(name, tmp_path, randomize):
    import transformers

    kind, settings = MODELS[name]
    settings = SMALL | settings | (dict(num_hidden_layers=5) if 'UPerNet' in name else {})
    config = (transformers.Data2VecVisionConfig if 'Data2Vec' in kind else transformers.BeitConfig)(
        **settings
    )
    randomize(getattr(transformers, kind)(config)).save_pretrained(tmp_path)
    checkpoint = read_checkpoint(str(tmp_path))
    state = checkpoint.state
    origin = checkpoint.origin
    meta = checkpoint.meta
    assert origin == 'hf'
    image, mask = torch.randn(2, 3, 64, 64, dtype=torch.float64), torch.rand(2, 4, 4) < 0.4
    own = our_model(state, torch.float64, meta.get('out_indices'))(image, mask)
    theirs = library_model('hf', tmp_path, infer_spec(state), torch.float64)(image, mask)
    tolerance = 1e-8 if 'both' in name else 1e-10  # the sum of two tables is rounded to f32
    torch.testing.assert_close(own, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('name', ['beitv2_base_patch16_224', 'beitv2_large_patch16_224'])
@torch.no_grad()
def test_the_outputs_are_those_of_timm(name, tmp_path, randomize):
    import timm

    small = dict(img_size=64, embed_dim=32, depth=3, num_heads=2, num_classes=7)
    model = randomize(timm.create_model(name, **small)).eval()
    torch.save(model.state_dict(), tmp_path / 'a.pth')
    checkpoint = read_checkpoint(str(tmp_path / 'a.pth'))
    state = checkpoint.state
    origin = checkpoint.origin
    assert origin == 'timm'
    image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(
        our_model(state, torch.float64)(image, None), model.double()(image), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize('target', ['hf', 'beit_mm', 'timm'])
def test_the_number_of_heads_that_absolute_positions_do_not_tell_is_that_of_the_folder(
    target, tmp_path, randomize
):
    import transformers

    config = transformers.BeitConfig(**SMALL | dict(num_attention_heads=8, num_labels=5) | DIT)
    randomize(transformers.BeitForImageClassification(config)).save_pretrained(tmp_path / 'a')
    convert.main([str(tmp_path / 'a'), str(tmp_path / 'b'), '--to', target, '--verify'])
    arch = dict(embed_dims=128, num_layers=4, num_heads=2, feedforward_channels=64)
    model = BEiT(arch, img_size=64, abs_pos_embed=True, layer_scale=0.1, out_type='avg_featmap')
    with pytest.raises(
        ValueError, match=r'a was trained with 8 heads, this BEiT has 2. Set arch\.num_heads=8'
    ):
        load_backbone(model, str(tmp_path / 'a'))


# -- full size -----------------------------------------------------------------------------------------------------------


def full_size(model: torch.nn.Module) -> dict[str, Tensor]:
    """A state dict of its keys and shapes, without memory."""
    return {k: torch.ones(()).expand(v.shape) for k, v in model.state_dict().items()}


def transformers_model(kind: str, **settings) -> dict[str, Tensor]:
    import transformers

    family = transformers.Data2VecVisionConfig if 'Data2Vec' in kind else transformers.BeitConfig
    with torch.device('meta'):
        model = getattr(transformers, kind)(family(**settings))
    return full_size(model)


def timm_model(name: str) -> dict[str, Tensor]:
    import timm

    with torch.device('meta'):
        model = timm.create_model(name)
    return full_size(model)


def beit_v2(arch: str, **keys: str) -> dict[str, Tensor]:
    """What pre-training wrote: the official code's names, or with `mmpretrain` that one's."""
    with torch.device('meta'):
        model = BEiT(arch, rel_pos_bias='shared', layer_scale=0.1, mask_token=True)
    backbone = full_size(model)
    head = dict(weight=torch.zeros(()).expand(8192, model.embed_dims), bias=torch.zeros(8192))
    state = {f'backbone.{k}': v for k, v in backbone.items()} | {
        f'head.proj.{k}': v for k, v in head.items()
    }
    layers = {
        k.removeprefix('blocks.'): v
        for k, v in backbone.items()
        if k.startswith(('blocks.0.', 'blocks.1.'))
    }
    if keys.get('origin') == 'mmpretrain':
        written = from_ours(state, 'mmpretrain')
        written = {k.replace('backbone.ln1.', 'neck.norm.'): v for k, v in written.items()}
        return dict(
            state_dict=written | {f'neck.patch_aggregation.{k}': v for k, v in layers.items()}
        )
    return dict(
        model=from_ours(state, 'unilm') | {f'cls_pt_layers.{k}': v for k, v in layers.items()}
    )


FILES = {
    'BEiT v2 base, pre-trained': (lambda: beit_v2('base'), 'unilm', 'base'),
    'BEiT v2 large, pre-trained': (lambda: beit_v2('large'), 'unilm', 'large'),
    'BEiT v2 base of mmpretrain, pre-trained': (lambda: beit_v2('base', origin='mmpretrain'), 'mmpretrain', 'base'),
    'BEiT v2 base, fine-tuned': (lambda: timm_model('beitv2_base_patch16_224'), 'timm', 'base'),
    'BEiT v2 large, fine-tuned': (lambda: timm_model('beitv2_large_patch16_224'), 'timm', 'large'),
    'data2vec base': (
        lambda: transformers_model('Data2VecVisionModel', use_mask_token=True, use_mean_pooling=False, **SHARED_TABLE), 'hf', 'base'),
    'data2vec base, fine-tuned': (
        lambda: transformers_model('Data2VecVisionForImageClassification', num_labels=1000, **OWN), 'hf', 'base'),
    'DiT base': (lambda: transformers_model('BeitForMaskedImageModeling', **DIT), 'hf', 'base'),
    'DiT base, fine-tuned': (lambda: transformers_model('BeitForImageClassification', num_labels=16, **DIT), 'hf', 'base'),
}  # fmt: skip
TASKS = dict(
    backbone=dict(),
    mim=dict(mask_token=True),
    classifier=dict(out_type='avg_featmap'),
    segmentor=dict(out_type='featmap', out_indices=(3, 5, 7, 11), img_size=512),
)


@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize('name', FILES)
def test_every_key_of_a_full_sized_file_is_accounted_for(name, task):
    """A key that is missing is the mask token or the norm of a fine-tuned file, of which there is none."""
    make, written_by, arch = FILES[name]
    checkpoint = parse_checkpoint(make(), name)
    state, origin, left = checkpoint.state, checkpoint.origin, checkpoint.skipped
    assert origin == written_by
    patches = [key for key in left if 'relative_position_index' not in key]
    assert len(patches) == (2 * 15 if 'v2' in name and 'pre-trained' in name else 0)
    assert {left[key] for key in patches} <= {
        "BEiT v2's patch aggregation, used in its pre-training only"
    }
    dit, fine_tuned = 'DiT' in name, 'fine-tuned' in name
    positions = dict(abs_pos_embed=True) if dit else dict(rel_pos_bias='shared')
    if not dit and (fine_tuned or task in ('classifier', 'segmentor')):
        positions = dict(rel_pos_bias='per_layer')
    with torch.device('meta'):
        model = BEiT(arch, layer_scale=0.1, **positions, **TASKS[task])
    backbone = {
        k.removeprefix('backbone.'): v for k, v in state.items() if k.startswith('backbone.')
    }
    may_be_new = ('norm.', 'fc_norm.', 'mask_token') if fine_tuned else ('fc_norm.',)
    check_fit(model, fit_backbone(backbone, model, KeyReport(name)), name, may_be_new)
    head = {k: tuple(v.shape) for k, v in state.items() if not k.startswith('backbone.')}
    if 'v2' in name and 'pre-trained' in name:
        assert head == {'head.proj.weight': (8192, model.embed_dims), 'head.proj.bias': (8192,)}


@pytest.mark.parametrize(
    ('name', 'mean'),
    [
        ('beitv2_base_patch16_224_pt1k_ft1k.pth', 123.675),
        ('beit_base_patch16_224_pt1k_800ep.pth', 123.675),
        ('hf://timm/beitv2_base_patch16_224.in1k_ft_in1k', 123.675),
        ('beit_base_patch16_224_pt22k_ft22k.pth', None),
    ],
)
def test_the_normalization_of_published_weights_is_known_by_their_names(name, mean):
    normalization = parse_checkpoint(timm_model('beitv2_base_patch16_224'), name).meta.get(
        'normalization', dict(mean=[None])
    )
    assert normalization['mean'][0] == mean


def test_the_tokenizer_of_beit_v2_is_refused_by_its_name():
    with pytest.raises(
        ValueError,
        match=r'this is VQ-KD, the tokenizer of BEiT v2, which is not supported. Use',
    ):
        identify(['encoder.blocks.0.attn.qkv.weight', 'quantize.embedding.weight'])

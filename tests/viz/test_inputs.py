"""Image files become inputs of a model; a checkpoint of any project builds its own model."""

import numpy as np
import pytest
import torch
from PIL import Image

from beit_mm.checkpoint.export import export_checkpoint
from beit_mm.checkpoint.published import NORMALIZATIONS
from beit_mm.models import BEiT, DiscreteVAE
from beit_mm.models.attention import attention_of_blocks
from beit_mm.viz import inputs
from beit_mm.viz.model_weights import ModelWeights

pytestmark = pytest.mark.any_stack

ARCH = dict(embed_dims=64, num_layers=2, num_heads=1, feedforward_channels=64)
MIM = dict(rel_pos_bias='shared', layer_scale=0.1, mask_token=True)
CLASSIFIER = dict(rel_pos_bias='per_layer', layer_scale=0.1, out_type='avg_featmap')
PROJECTS = [(target, 'head.proj', MIM) for target in ('beit_mm', 'hf', 'unilm', 'mmpretrain')]
PROJECTS += [(target, 'head.fc', CLASSIFIER) for target in ('hf', 'unilm', 'mmpretrain', 'timm')]
IMAGE = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize('target, head, settings', PROJECTS)
def test_a_checkpoint_of_any_project_builds_its_model(tmp_path, target, head, settings):
    torch.manual_seed(0)
    model = BEiT(ARCH, img_size=64, **settings).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    state = {f'backbone.{k}': v for k, v in model.state_dict().items()}
    state |= {f'{head}.weight': torch.randn(20, 64), f'{head}.bias': torch.randn(20)}
    export_checkpoint(state, target, tmp_path / 'out', {}, False)
    weights = ModelWeights(str(tmp_path / 'out'))
    found = attention_of_blocks(weights.backbone(), IMAGE)
    for theirs, ours in zip(found, attention_of_blocks(model, IMAGE), strict=True):
        assert (theirs - ours).abs().max() <= 1e-6
    assert weights.normalization == NORMALIZATIONS['half']
    assert weights.spec.kind == ('mim' if settings is MIM else 'classifier')
    if settings is MIM:
        assert torch.equal(weights.mim_head().weight, state['head.proj.weight'])


def test_heads_and_normalization_can_be_given(tmp_path):
    model = BEiT(ARCH | dict(num_heads=4), img_size=64, abs_pos_embed=True).eval()
    state = {f'backbone.{k}': v for k, v in model.state_dict().items()}
    statistics = dict(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0])
    torch.save(dict(state_dict=state, meta=dict(normalization=statistics)), tmp_path / 'a.pth')
    weights = ModelWeights(str(tmp_path / 'a.pth'))
    assert (weights.backbone().num_heads, weights.backbone(4).num_heads) == (1, 4)
    assert torch.equal(weights.backbone(4)(IMAGE)[0], model(IMAGE)[0])
    assert weights.normalization == statistics
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    expected = (torch.tensor([[1.0, 4], [7, 10]]) - 2) / 5
    assert torch.equal(inputs.normalize(image, statistics)[0, 1], expected)


def test_a_tokenizer_is_built_with_its_own_sizes(tmp_path):
    torch.manual_seed(0)
    model = DiscreteVAE(vocab_size=12, width=8, groups=3, blocks=2, width_in=20)
    torch.save(model.state_dict(), tmp_path / 'a.pth')
    again = ModelWeights(str(tmp_path / 'a.pth')).tokenizer()
    ids = model.tokens(IMAGE.sigmoid())
    assert (again.stride, again.vocab_size) == (4, 12)
    assert torch.equal(again.tokens(IMAGE.sigmoid()), ids)
    assert torch.equal(again.decode(ids), model.decode(ids))


def test_sizes_are_multiples_near_the_shape_of_the_image():
    assert inputs.fit_size((480, 640), 224, 16) == (224, 304)
    assert inputs.fit_size((10, 1000), 16, 16) == (16, 1600)
    assert inputs.fit_size((7, 5), 2, 8) == (8, 8)


def test_files_are_read_as_rgb_and_resized_by_pillow(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    assert np.array_equal(inputs.read_model_image(tmp_path / 'a.png'), pixels)
    resized = np.array(Image.fromarray(pixels).resize((20, 10), Image.Resampling.BICUBIC))
    assert np.array_equal(inputs.resize(pixels, (10, 20)), resized)

"""A checkpoint of any origin builds its own model, and images are fitted as is said."""

from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image

from beit_mm.checkpoint.export import export
from beit_mm.models import BEiT, DiscreteVAE
from beit_mm.viz import attention, inputs

pytestmark = pytest.mark.any_stack

ARCH = dict(embed_dims=64, num_layers=2, num_heads=1, feedforward_channels=64)
IMAGE = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def find_weights(kind: str) -> tuple[BEiT, dict]:
    torch.manual_seed(0)
    settings = dict(
        mim=dict(rel_pos_bias='shared', layer_scale=0.1, mask_token=True),
        classifier=dict(rel_pos_bias='per_layer', layer_scale=0.1, out_type='avg_featmap'),
    )[kind]
    model = BEiT(ARCH, img_size=64, **settings).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    name, size = dict(mim=('head.proj', 20), classifier=('head.fc', 7))[kind]
    head = {f'{name}.weight': torch.randn(size, 64), f'{name}.bias': torch.randn(size)}
    return model, {f'backbone.{k}': v for k, v in model.state_dict().items()} | head


MAKERS = ('beit_mm', 'hf', 'unilm', 'mmpretrain')


@pytest.mark.parametrize(
    'kind, target', [*product(('mim', 'classifier'), MAKERS), ('classifier', 'timm')]
)
def test_whoever_wrote_it_the_maps_are_the_same(tmp_path, kind, target):
    model, state = find_weights(kind)
    export(state, target, tmp_path / 'out', {}, False)
    weights = inputs.Weights(str(tmp_path / 'out'))
    found = attention.attention_of_blocks(weights.backbone(), IMAGE)
    for theirs, ours in zip(found, attention.attention_of_blocks(model, IMAGE), strict=True):
        assert (theirs - ours).abs().max() <= 1e-6
    assert weights.normalization == inputs.PUBLISHED and weights.facts.kind == kind


def test_the_head_and_the_normalisation_of_a_file(tmp_path):
    _, state = find_weights('mim')
    said = dict(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0])
    torch.save(dict(state_dict=state, meta=dict(normalization=said)), tmp_path / 'a.pth')
    weights = inputs.Weights(str(tmp_path / 'a.pth'))
    assert weights.normalization == said and torch.equal(
        weights.mim_head().weight, state['head.proj.weight']
    )
    with pytest.raises(ValueError, match=r'a\.pth holds a mim, needed is a tokenizer'):
        weights.tokenizer()
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert torch.equal(
        inputs.normalised(image, said)[0, 1], (torch.tensor([[1.0, 4], [7, 10]]) - 2) / 5
    )


def test_heads_that_nothing_tells_can_be_said(tmp_path):
    model = BEiT(ARCH | dict(num_heads=4), img_size=64, abs_pos_embed=True).eval()
    torch.save({f'backbone.{k}': v for k, v in model.state_dict().items()}, tmp_path / 'a.pth')
    weights = inputs.Weights(str(tmp_path / 'a.pth'))
    assert (weights.backbone().num_heads, weights.backbone(4).num_heads) == (1, 4)
    assert torch.equal(weights.backbone(4)(IMAGE)[0], model(IMAGE)[0])
    with pytest.raises(ValueError, match='embed_dims=64 is no multiple of num_heads=5'):
        weights.backbone(5)


def test_a_tokenizer_is_built_as_it_was(tmp_path):
    torch.manual_seed(0)
    model = DiscreteVAE(vocab_size=12, width=8, groups=3, blocks=2, width_in=20)
    torch.save(model.state_dict(), tmp_path / 'a.pth')
    again = inputs.Weights(str(tmp_path / 'a.pth')).tokenizer()
    ids = model.tokens(IMAGE.sigmoid())
    assert (again.stride, again.vocab_size) == (4, 12)
    assert torch.equal(again.tokens(IMAGE.sigmoid()), ids) and torch.equal(
        again.decode(ids), model.decode(ids)
    )
    torch.save(
        {k: v for k, v in model.state_dict().items() if k.startswith('encoder.')},
        tmp_path / 'b.pth',
    )
    with pytest.raises(ValueError, match='is an encoder alone, which has ids and no pictures'):
        inputs.Weights(str(tmp_path / 'b.pth')).tokenizer()


@pytest.mark.parametrize(
    'size, short, multiple, fitted',
    [
        ((480, 640), 224, 16, (224, 304)),
        ((64, 64), 64, 8, (64, 64)),
        ((10, 1000), 16, 16, (16, 1600)),
        ((7, 5), 2, 8, (8, 8)),
    ],
)
def test_sizes_are_multiples_near_the_shape_of_the_image(size, short, multiple, fitted):
    assert inputs.fitting_size(size, short, multiple) == fitted


def test_an_image_is_read_as_a_viewer_shows_it(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    assert np.array_equal(inputs.read_image(tmp_path / 'a.png'), pixels)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    Image.fromarray(pixels).save(tmp_path / 'b.png', exif=exif)
    assert np.array_equal(inputs.read_image(tmp_path / 'b.png'), np.rot90(pixels, -1))
    assert inputs.resized(pixels, (10, 20)).shape == (10, 20, 3)
    said = inputs.words(tmp_path / 'a.png', pixels, (8, 8), (1, 1))
    assert said == 'a.png: 7×5 pixels, resized to 8×8, 1×1 patches'
    with pytest.raises(ValueError, match='cannot be read'):
        inputs.read_image(tmp_path / 'none.png')

"""The backbone: features do not depend on how they are read, and masked pixels are not seen."""

import math

import numpy as np
import pytest
import torch
from small import randomize
from torch import func

from beit_mm.models import BEiT, DiscreteVAE, MIMHead, PatchwiseBEiT, SETRPUPHead, UPerHead
from beit_mm.models.block import take_rows

TINY = dict(embed_dims=32, num_layers=3, num_heads=4, feedforward_channels=64)
POSITIONS = [
    dict(rel_pos_bias='shared'),
    dict(rel_pos_bias='per_layer'),
    dict(abs_pos_embed=True),
]


def make(random: bool = True, **kwargs) -> BEiT:
    """Return a small BEiT in float64, whose parameters are random instead of their initial values."""
    torch.manual_seed(0)
    model = BEiT(**dict(arch=TINY, img_size=32, patch_size=8) | kwargs).double()
    model.init_weights()
    return randomize(model).eval() if random else model.eval()


def image(batch: int = 2, h: int = 32, w: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, h, w, dtype=torch.float64, generator=generator)


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_parameter_counts_are_the_papers():
    with torch.device('meta'):
        plus = BEiT('base', rel_pos_bias='shared', layer_scale=0.1, mask_token=True)
        vanilla = BEiT('base', abs_pos_embed=True, mask_token=True)
    head = 768 * 8192 + 8192
    assert count(plus) + head == 91_965_776  # the official model with its MIM head
    relative, scales, absolute = 732 * 12, 12 * 2 * 768, 197 * 768
    assert count(vanilla) == count(plus) - relative - scales + absolute


@pytest.mark.parametrize('positions', POSITIONS)
def test_patch_ids_read_the_same_features_and_gradients(positions):
    model = make(layer_scale=0.1, mask_token=True, **positions).train()
    x, mask = image(), torch.rand(2, 4, 4) < 0.4
    patch_ids = torch.stack([torch.randperm(16)[:5] for _ in range(2)])
    all_features = model(x, mask)[0]
    expected = take_rows(all_features, patch_ids + 1)
    (found,) = model(x, mask, patch_ids)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    gradients = [
        torch.autograd.grad(features.square().sum(), list(model.parameters()))
        for features in (found, expected)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('positions', POSITIONS)
def test_positions_are_interpolated_for_other_sizes_and_learn(positions):
    model = make(out_type='featmap', **positions).train()
    (feature,) = model(image(1, 48, 24))
    assert feature.shape == (1, 32, 6, 3)
    feature.sum().backward()
    for name, p in model.named_parameters():
        if 'position' in name or 'pos_embed' in name:
            assert p.grad.any(), name


@pytest.mark.parametrize('stages, table_trains', [(-1, True), (0, True), (1, False), (2, False)])
def test_frozen_stages_stay_as_they_are(stages, table_trains):
    model = make(frozen_stages=stages, drop_path_rate=0.5, rel_pos_bias='shared').train()
    assert [block.training for block in model.blocks] == [i >= stages for i in range(3)]
    embeddings = [model.cls_token, *model.patch_embed.parameters()]
    assert {p.requires_grad for p in embeddings} == {stages < 0}
    for i, block in enumerate(model.blocks):
        assert {p.requires_grad for p in block.parameters()} == {i >= stages}
    assert model.rel_pos_bias.relative_position_bias_table.requires_grad is table_trains
    assert model.norm.weight.requires_grad


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('with_cp', [True, False])
def test_an_empty_batch_has_empty_features(training, with_cp):
    settings = dict(rel_pos_bias='shared', layer_scale=0.1, drop_path_rate=0.5, mask_token=True)
    model = make(with_cp=with_cp, **settings).train(training)
    mask = torch.zeros(0, 4, 4, dtype=torch.bool)
    assert model(image(0))[0].shape == (0, 17, 32)
    (features,) = model(image(0), mask, torch.zeros(0, 5, dtype=torch.int64))
    assert features.shape == (0, 5, 32)
    features.sum().backward()


def test_torch_func_gives_per_image_gradients():
    """In training, where each image drops other branches, and in evaluation."""
    model = make(rel_pos_bias='shared', layer_scale=0.1, drop_path_rate=0.5).train()
    weights = dict(model.named_parameters())

    def loss(weights, one):
        return func.functional_call(model, weights, (one[None],))[0].square().mean()

    gradient_of_each = func.vmap(func.grad(loss), in_dims=(None, 0), randomness='different')
    found = gradient_of_each(weights, image(8))
    assert all(found[name].isfinite().all() for name in weights)
    is_dropped = [not gradient.any() for gradient in found['blocks.2.mlp.fc2.weight']]
    assert any(is_dropped) and not all(is_dropped)
    model.eval()
    for name, gradient in gradient_of_each(weights, image(2)).items():
        alone = [torch.autograd.grad(loss(weights, one), weights[name])[0] for one in image(2)]
        torch.testing.assert_close(gradient, torch.stack(alone), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('patch_embed_std', [0.02, 0.2])
def test_initialization_is_the_papers(patch_embed_std):
    torch.manual_seed(0)
    arch = dict(embed_dims=256, num_layers=4, num_heads=4, feedforward_channels=512)
    model = BEiT(
        arch, 32, 8, rel_pos_bias='shared', layer_scale=0.1, mask_token=True,
        patch_embed_std=patch_embed_std,
    )  # fmt: skip
    model.init_weights()
    std_of_cut_normal = math.sqrt(0.2912)  # of a normal of std 1 cut at ±1
    weights = [(model.patch_embed.proj.weight, patch_embed_std)]
    for layer, block in enumerate(model.blocks, 1):
        weights += [(block.attn.qkv.weight, 0.02), (block.mlp.fc1.weight, 0.02)]
        std = 0.02 / math.sqrt(2 * layer)
        weights += [(block.attn.proj.weight, std), (block.mlp.fc2.weight, std)]
        assert not block.mlp.fc1.bias.any() and (block.gamma_1 == 0.1).all()
        assert not block.attn.q_bias.any() and (block.norm1.weight == 1).all()
    for weight, std in weights:
        assert 0.95 * std < weight.abs().max() <= std + 1e-9
        assert weight.std().item() == pytest.approx(std * std_of_cut_normal, rel=0.02)
    assert 0.01 < model.mask_token.abs().max() <= 0.02 + 1e-9
    assert not model.rel_pos_bias.relative_position_bias_table.any()
    assert not model.patch_embed.proj.bias.any()


def test_layer_depth_of_an_adapter_is_that_of_its_block():
    adapted = 'backbone.module.blocks.2.attn.qkv.lora_up.weight'
    assert make().get_layer_depth(adapted, 'backbone.') == (3, 5)


def test_patches_of_the_patchwise_backbone_never_see_each_other_also_when_trained():
    torch.manual_seed(0)
    model = PatchwiseBEiT(
        arch=TINY, img_size=32, patch_size=8, rel_pos_bias='per_layer', out_type='featmap'
    )
    model.init_weights()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        model(torch.randn(2, 3, 32, 32))[0].square().sum().backward()
        optimizer.step()
    one = torch.randn(1, 3, 32, 32)
    other = one.clone()
    other[..., 8:16, 16:24] += 1
    changed = (model(one)[0] != model(other)[0]).any(1)[0]
    assert changed.nonzero().tolist() == [[1, 2]]


HEAD = dict(channels=4, num_classes=2, norm_cfg=dict(type='BN'))
NEW = {
    'pre-training': lambda: BEiT(
        TINY, 32, 8, rel_pos_bias='shared', layer_scale=0.1, mask_token=True
    ),
    'fine-tuning': lambda: BEiT(
        TINY, 32, 8, rel_pos_bias='per_layer', layer_scale=1e-5, out_type='avg_featmap'
    ),
    'vanilla': lambda: BEiT(TINY, 32, 8, abs_pos_embed=True),
    'head': lambda: MIMHead(8, 4),
    'tokenizer': lambda: DiscreteVAE(vocab_size=16, width=4, groups=2, blocks=1, width_in=4),
    'decoder': lambda: SETRPUPHead(8, num_stages=2, **HEAD),
    'deconvolution': lambda: SETRPUPHead(8, num_stages=2, upsample='deconv', **HEAD),
    'UPerNet': lambda: UPerHead(in_channels=[4] * 2, in_index=[0, 1], pool_scales=(1, 2), **HEAD),
}


@pytest.mark.parametrize('kind', NEW)
def test_initialization_sets_everything_whatever_was_in_memory(kind):
    models = NEW[kind](), NEW[kind]().to('meta').to_empty(device='cpu')
    states = []
    for tensor in models[1].state_dict().values():
        tensor.fill_(float('nan') if tensor.is_floating_point() else -1)
    for model in models:
        torch.manual_seed(0)
        model.init_weights()
        states.append(model.state_dict())
    torch.testing.assert_close(states[1], states[0], rtol=0, atol=0)


def test_settings_may_be_integers_of_numpy():
    settings = dict(img_size=32, patch_size=8, in_channels=3, out_indices=2, frozen_stages=1)
    arch = {key: np.int64(value) for key, value in TINY.items()}
    model = BEiT(arch, **{key: np.int64(value) for key, value in settings.items()})
    assert model(torch.zeros(2, 3, 32, 32))[0].shape == (2, 17, 32)

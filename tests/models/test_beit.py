"""The backbone: what it computes does not depend on how it is asked, and what it must not see it does not see."""

import math

import numpy as np
import pytest
import torch
from torch import func

from beit_mm.data.blockwise_mask import BlockwiseMask
from beit_mm.models import BEiT, DiscreteVAE, MIMHead, SETRPUPHead, UPerHead
from beit_mm.models.block import take

TINY = dict(embed_dims=32, num_layers=3, num_heads=4, feedforward_channels=64)


def make(randomise=True, **kwargs) -> BEiT:
    """A small BEiT in f64 whose every parameter is drawn away from its special initial value."""
    torch.manual_seed(0)
    model = BEiT(**{**dict(arch=TINY, img_size=32, patch_size=8), **kwargs}).double()
    model.init_weights()
    if randomise:
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.3)
    return model.eval()


def image(batch=2, h=32, w=32):
    return torch.randn(
        batch, 3, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


def count(model) -> int:
    return sum(p.numel() for p in model.parameters())


def test_parameter_counts_are_the_papers():
    with torch.device('meta'):
        plus = BEiT('base', rel_pos_bias='shared', layer_scale=0.1, mask_token=True)
        vanilla = BEiT('base', abs_pos_embed=True, mask_token=True)
    head = 768 * 8192 + 8192
    assert count(plus) + head == 91_965_776  # the official model with its MIM head
    relative, scales, absolute = 732 * 12, 12 * 2 * 768, 197 * 768
    assert count(vanilla) == count(plus) - relative - scales + absolute


@pytest.mark.parametrize(
    'positions',
    [dict(rel_pos_bias='shared'), dict(rel_pos_bias='per_layer'), dict(abs_pos_embed=True)],
)
def test_index_reads_the_same_features_as_the_whole_sequence(positions):
    model, x = make(layer_scale=0.1, mask_token=True, **positions), image()
    mask = torch.rand(2, 4, 4) < 0.4
    index = torch.stack([torch.randperm(16)[:5] for _ in range(2)])
    (whole,), (part,) = model(x, mask), model(x, mask, index)
    torch.testing.assert_close(part, take(whole, index + 1), rtol=1e-10, atol=1e-10)


def test_index_gives_the_same_gradients():
    model, x = make(rel_pos_bias='shared', layer_scale=0.1, mask_token=True).train(), image()
    index = torch.tensor([[3, 1, 7], [15, 0, 2]])
    grads = []
    for read in (lambda: take(model(x)[0], index + 1), lambda: model(x, None, index)[0]):
        model.zero_grad()
        read().square().sum().backward()
        grads.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-9, atol=1e-9, msg=name)


def test_pixels_under_the_mask_change_nothing():
    model, x = make(rel_pos_bias='shared', mask_token=True), image()
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[:, 1:3, 2] = True
    hidden = mask.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    other = torch.where(hidden, torch.randn_like(x), x)
    assert torch.equal(model(x, mask)[0], model(other, mask)[0])
    assert not torch.equal(model(x)[0], model(other)[0])


def test_mask_token_gets_a_gradient_only_if_something_is_hidden():
    model, x = make(mask_token=True), image()
    for hidden in (False, True):
        model.zero_grad()
        model(x, torch.full((2, 4, 4), hidden))[0].sum().backward()
        assert bool(model.mask_token.grad.abs().sum() > 0) is hidden


def test_permuting_patches_with_their_absolute_positions_permutes_the_output():
    model, x = make(abs_pos_embed=True), image()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(2))
    patches = x.unfold(2, 8, 8).unfold(3, 8, 8).flatten(2, 3)[:, :, order]  # [B, 3, N, 8, 8]
    shuffled = patches.unflatten(2, (4, 4)).permute(0, 1, 2, 4, 3, 5).reshape(x.shape)
    (before,) = model(x)
    model.pos_embed.data[:, 1:] = model.pos_embed.data[:, 1:][:, order]
    (after,) = model(shuffled)
    torch.testing.assert_close(after[:, 1:], before[:, 1:][:, order], rtol=1e-9, atol=1e-9)

    biased = make(rel_pos_bias='shared')
    assert (biased(shuffled)[0][:, 1:] - biased(x)[0][:, 1:][:, order]).abs().max() > 1e-2


@pytest.mark.parametrize(
    'positions',
    [dict(rel_pos_bias='shared'), dict(rel_pos_bias='per_layer'), dict(abs_pos_embed=True)],
)
def test_other_sizes_at_run_time(positions):
    model = make(out_type='featmap', **positions).train()
    (feature,) = model(image(1, 48, 24))
    assert feature.shape == (1, 32, 6, 3)
    feature.sum().backward()
    assert all(
        p.grad is not None
        for n, p in model.named_parameters()
        if 'position' in n or 'pos_embed' in n
    )


def test_a_batch_is_its_images():
    model, x = make(rel_pos_bias='per_layer', layer_scale=0.1, out_type='avg_featmap'), image(3)
    torch.testing.assert_close(
        model(x)[0], torch.cat([model(i)[0] for i in x.split(1)]), rtol=1e-10, atol=1e-10
    )


def test_out_types_are_views_of_one_sequence():
    (raw,) = make(rel_pos_bias='shared', randomise=False)(image())
    (featmap,) = make(rel_pos_bias='shared', out_type='featmap', randomise=False)(image())
    (average,) = make(rel_pos_bias='shared', out_type='avg_featmap', randomise=False)(image())
    (cls,) = make(rel_pos_bias='shared', out_type='cls_token', randomise=False)(image())
    norm = torch.nn.functional.layer_norm
    patches = featmap.flatten(2).transpose(1, 2)
    torch.testing.assert_close(norm(patches, (32,), eps=1e-6), raw[:, 1:])
    torch.testing.assert_close(norm(patches.mean(1), (32,), eps=1e-6), average)
    assert torch.equal(cls, raw[:, 0])


def test_out_indices_are_the_blocks_outputs():
    model, x = make(out_type='featmap', out_indices=(0, 2)), image()
    outputs = []
    for block in model.blocks:
        block.register_forward_hook(lambda *args: outputs.append(args[-1]))
    for feature, i in zip(model(x), (0, 2), strict=True):
        assert torch.equal(feature.flatten(2).transpose(1, 2), outputs[i][:, 1:])


def test_activation_checkpointing_changes_no_gradient():
    grads = []
    for with_cp in (False, True):
        model = make(rel_pos_bias='shared', layer_scale=0.1, with_cp=with_cp).train()
        model(image())[0].square().sum().backward()
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_every_parameter_is_used():
    for kwargs in (
        dict(mask_token=True, rel_pos_bias='shared', layer_scale=0.1),
        dict(out_type='avg_featmap', rel_pos_bias='per_layer'),
        dict(out_type='featmap', abs_pos_embed=True),
        dict(out_type='cls_token', rel_pos_bias='per_layer'),
    ):
        model = make(**kwargs).train()
        mask = torch.rand(2, 4, 4) < 0.5 if 'mask_token' in kwargs else None
        model(image(), mask)[0].square().sum().backward()
        assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_frozen_stages_stay_as_they_are():
    model = make(frozen_stages=2, drop_path_rate=0.5).train()
    model(image())[0].sum().backward()
    trained = {
        n.split('.')[0] + n.split('.')[1] if n.startswith('blocks') else n.split('.')[0]
        for n, p in model.named_parameters()
        if p.grad is not None
    }
    assert trained == {'blocks2', 'norm'}
    assert [block.training for block in model.blocks] == [False, False, True]


@pytest.mark.parametrize('stages, trained', [(-1, True), (0, True), (1, False), (3, False)])
def test_a_shared_table_is_frozen_with_the_first_block_that_reads_it(stages, trained):
    model = make(frozen_stages=stages, rel_pos_bias='shared')
    assert model.rel_pos_bias.relative_position_bias_table.requires_grad is trained


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('with_cp', [True, False])
def test_a_batch_of_no_images_has_no_features(training, with_cp):
    model = make(
        rel_pos_bias='shared', layer_scale=0.1, drop_path_rate=0.5, with_cp=with_cp, mask_token=True
    ).train(training)
    mask, index = torch.zeros(0, 4, 4, dtype=torch.bool), torch.zeros(0, 5, dtype=torch.int64)
    assert model(image(0))[0].shape == (0, 17, 32)
    (features,) = model(image(0), mask, index)
    assert features.shape == (0, 5, 32)
    features.sum().backward()


def test_settings_may_be_whole_numbers_of_numpy():
    settings = dict(img_size=32, patch_size=8, in_channels=3, out_indices=2, frozen_stages=1)
    arch = {key: np.int64(value) for key, value in TINY.items()}
    model = BEiT(
        arch, **{key: np.int64(value) for key, value in settings.items()}, rel_pos_bias='shared'
    ).double()
    assert model(image())[0].shape == (2, 17, 32)
    assert (model.grid, model.out_indices) == ((4, 4), (2,)) and type(model.grid[0]) is int
    head = SETRPUPHead(
        np.int64(8),
        np.int64(4),
        np.int64(2),
        in_index=np.int64(0),
        num_classes=2,
        norm_cfg=dict(type='BN'),
    )
    assert head.eval()((torch.randn(1, 8, 3, 2),)).shape == (1, 2, 12, 8)
    assert BlockwiseMask(grid=np.int64(4), num_masked=6, min_block=2).transform({})[
        'mask'
    ].shape == (
        4,
        4,
    )


def test_each_image_has_a_gradient_of_its_own():
    """Per-sample gradients by torch.func, in training, where each image drops other branches."""
    model = make(rel_pos_bias='shared', layer_scale=0.1, drop_path_rate=0.5).train()
    weights = dict(model.named_parameters())

    def loss(weights, one):
        return func.functional_call(model, weights, (one[None],))[0].square().mean()

    found = func.vmap(func.grad(loss), in_dims=(None, 0), randomness='different')(weights, image(8))
    assert all(
        found[name].shape == (8, *p.shape) and found[name].isfinite().all()
        for name, p in weights.items()
    )
    dropped = [not gradient.any() for gradient in found['blocks.2.mlp.fc2.weight']]
    assert any(dropped) and not all(dropped)
    for name, gradient in func.vmap(func.grad(loss), in_dims=(None, 0))(
        dict(model.eval().named_parameters()), image(2)
    ).items():
        alone = torch.stack(
            [torch.autograd.grad(loss(weights, one), weights[name])[0] for one in image(2)]
        )
        torch.testing.assert_close(gradient, alone, rtol=1e-9, atol=1e-12)


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
    'decoder': lambda: SETRPUPHead(
        in_channels=8, channels=4, num_classes=2, num_stages=2, norm_cfg=dict(type='BN')
    ),
    'UPerNet': lambda: UPerHead(
        in_channels=[4] * 2,
        in_index=[0, 1],
        pool_scales=(1, 2),
        channels=4,
        num_classes=2,
        norm_cfg=dict(type='BN'),
    ),
    'deconvolution': lambda: SETRPUPHead(
        in_channels=8,
        channels=4,
        num_classes=2,
        num_stages=2,
        upsample='deconv',
        norm_cfg=dict(type='BN'),
    ),
}


@pytest.mark.parametrize('kind', NEW)
def test_initialisation_sets_everything_whatever_was_in_memory(kind):
    models = NEW[kind](), NEW[kind]().to('meta').to_empty(device='cpu')
    states = []
    for tensor in models[1].state_dict().values():
        tensor.fill_(float('nan') if tensor.is_floating_point() else -1)
    for model in models:
        torch.manual_seed(0)
        model.init_weights()
        states.append(model.state_dict())
    torch.testing.assert_close(states[1], states[0], rtol=0, atol=0)


def test_initialisation_is_the_papers():
    torch.manual_seed(0)
    model = BEiT(
        dict(embed_dims=256, num_layers=4, num_heads=4, feedforward_channels=512),
        32,
        8,
        rel_pos_bias='shared',
        layer_scale=0.1,
    )
    model.init_weights()
    cut = 0.02 * math.sqrt(0.2912)  # deviation of a normal of 0.02 cut at one deviation
    for layer, block in enumerate(model.blocks, 1):
        for weight, scale in (
            (block.attn.qkv.weight, 1),
            (block.mlp.fc1.weight, 1),
            (block.attn.proj.weight, math.sqrt(2 * layer)),
            (block.mlp.fc2.weight, math.sqrt(2 * layer)),
        ):
            assert weight.abs().max() <= 0.02 / scale + 1e-9
            assert weight.std().item() == pytest.approx(cut / scale, rel=0.02)
        assert block.mlp.fc1.bias.abs().max() == 0 and (block.gamma_1 == 0.1).all()
    assert model.rel_pos_bias.relative_position_bias_table.abs().max() == 0


@pytest.mark.parametrize('std', [None, 0.2])
def test_the_patch_embedding_starts_with_its_own_deviation(std):
    torch.manual_seed(0)
    model = BEiT(
        dict(TINY, embed_dims=256),
        32,
        8,
        mask_token=True,
        **({} if std is None else dict(patch_embed_std=std)),
    )
    torch.nn.init.ones_(model.patch_embed.proj.bias)
    model.init_weights()
    std = std or 0.02  # the paper's
    weight = model.patch_embed.proj.weight
    assert 0.99 * std < weight.abs().max() <= std * (1 + 1e-6)
    assert weight.std().item() == pytest.approx(std * math.sqrt(0.2912), rel=0.02)
    assert model.patch_embed.proj.bias.abs().max() == 0
    for other in (model.cls_token, model.mask_token, model.blocks[0].mlp.fc1.weight):
        assert 0.01 < other.abs().max() <= 0.02 + 1e-9


def test_layer_depth_counts_as_the_official_code():
    model = make(rel_pos_bias='shared', mask_token=True)
    depth = {
        n: model.get_layer_depth(f'backbone.{n}', 'backbone.')[0]
        for n, _ in model.named_parameters()
    }
    assert depth['cls_token'] == depth['mask_token'] == depth['patch_embed.proj.weight'] == 0
    assert depth['blocks.0.norm1.weight'] == 1 and depth['blocks.2.attn.q_bias'] == 3
    assert depth['norm.weight'] == depth['rel_pos_bias.relative_position_bias_table'] == 4
    assert model.get_layer_depth(
        'backbone.module.blocks.2.attn.qkv.lora_up.weight', 'backbone.'
    ) == (3, 5)

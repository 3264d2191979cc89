"""Where ports of BEiT differ from it, and by how much: each test fails once the library is fixed."""

import numpy as np
import pytest
import torch
import transformers
from mmpretrain.datasets.transforms import BEiTMaskGenerator
from mmpretrain.models import BEiTViT
from mmpretrain.models.backbones.beit import BEiTTransformerEncoderLayer
from mmseg.models.backbones import BEiT as MMSegBEiT

from beit_mm.checkpoint.origins import from_ours

ARCH = dict(embed_dims=64, num_layers=4, num_heads=1, feedforward_channels=128)


def test_mmpretrain_never_masks_the_last_row_and_column():
    """Its `randint` excludes the end."""
    theirs = BEiTMaskGenerator(input_size=14, num_masking_patches=75, min_num_patches=16)
    np.random.seed(0)
    stack = np.stack([theirs.transform({})['mask'] for _ in range(500)]).mean(0)
    assert stack[-1].max() == stack[:, -1].max() == 0 and stack[0].mean() > 0.05


def test_mmpretrain_leaves_the_bias_at_zero_if_the_shared_table_has_a_prefix(make_state):
    """It looks for 'rel_pos_bias.…', whatever the prefix that it loads with."""
    theirs = BEiTViT(arch=ARCH, img_size=64, patch_cfg=dict(padding=0))
    wrapped = torch.nn.ModuleDict(dict(backbone=theirs))
    wrapped.load_state_dict(from_ours(make_state('mim'), 'mmpretrain'), strict=False)
    assert not any(layer.attn.relative_position_bias_table.any() for layer in theirs.layers)


def test_mmseg_refuses_a_shared_table_and_other_grids(make_state, tmp_path):
    """Other grids need `interp2d`, which SciPy no longer has."""
    backbone = {k: v for k, v in make_state('segmentor').items() if k.startswith('backbone.')}
    torch.save(dict(state_dict=make_state('mim')), tmp_path / 'shared.pth')
    torch.save(dict(state_dict=from_ours(backbone, 'mmseg')), tmp_path / 'bare.pth')
    settings = dict(embed_dims=64, num_layers=4, num_heads=1, mlp_ratio=2)
    for size, path, error in (
        (64, 'shared.pth', KeyError),
        (96, 'bare.pth', (NotImplementedError, AttributeError)),
    ):
        init = dict(type='Pretrained', checkpoint=str(tmp_path / path))
        with pytest.raises(error):
            MMSegBEiT(img_size=size, init_cfg=init, **settings).init_weights()


def test_mmpretrain_drops_the_feed_forward_branch_twice():
    """At a rate of 0.5, its FFN and its layer keep the branch in a quarter of the images."""
    torch.manual_seed(0)
    layer = BEiTTransformerEncoderLayer(8, 1, 16, 1.0, (2, 2), True, drop_path_rate=0.5)
    torch.nn.init.zeros_(layer.attn.proj.weight)
    torch.nn.init.zeros_(layer.attn.proj.bias)
    torch.nn.init.ones_(layer.ffn.layers[1].bias)
    kept = layer.train()(torch.zeros(4000, 5, 8), None)[:, 0, 0].ne(0).float().mean().item()
    assert kept == pytest.approx(0.25, abs=0.03)


def test_hugging_face_reads_features_two_blocks_earlier_than_the_official_code():
    """`out_indices` i is `hidden_states[i − 1]`, and the first of these is the embedding."""
    config = transformers.BeitConfig(
        hidden_size=64, num_hidden_layers=5, num_attention_heads=1, intermediate_size=128, image_size=64,
        use_relative_position_bias=True, out_indices=[2, 3, 4, 5], num_labels=5,
    )  # fmt: skip
    model, seen = transformers.BeitForSemanticSegmentation(config).eval(), []
    model.fpn.register_forward_pre_hook(lambda module, args: seen.extend(args[0]))
    with torch.no_grad():
        states = model(torch.randn(1, 3, 64, 64), output_hidden_states=True).hidden_states
    for i, feature in zip(config.out_indices, seen, strict=True):
        assert torch.equal(feature.flatten(2).transpose(1, 2), states[i - 1][:, 1:])
    assert len(states) == 6  # states[t + 1] is the output of block t
    with pytest.raises(ValueError, match='out_indices must be valid indices'):
        transformers.BeitConfig(num_hidden_layers=5, out_indices=[3, 4, 5, 6])

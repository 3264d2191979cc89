"""The losses of twenty steps of pre-training do not change, because faster code must compute the same."""

import numpy as np
import pytest
import torch
from mmengine.model import BaseDataPreprocessor
from mmengine.optim import OptimWrapper
from small import make_pretrainer
from torch import nn

pytestmark = pytest.mark.any_stack

STEPS, BATCH, K, NUM_MASKED = 20, 3, 16, 6
ARCH = dict(embed_dims=32, num_layers=3, num_heads=4, feedforward_channels=64)
VAE = dict(type='DiscreteVAE', vocab_size=K, width=8, groups=2, blocks=1, width_in=4)  # stride 2
BEIT = dict(rel_pos_bias='shared', layer_scale=0.1)  # as most public weights
VIT = dict(abs_pos_embed=True)  # as the paper's tables
# Losses of steps 1 to 20 in float64. They depend on the draws of NumPy and of torch's CPU generator.
GOLDEN = {
    'beit': [
        2.991769778490, 0.448599892209, 0.137303644471, 0.030520961155, 0.013766128907,
        0.393665772172, 0.010346158010, 0.006916091560, 0.007398517740, 0.005203597514,
        0.690026096474, 0.007081983157, 0.311053741928, 0.024434703912, 0.249172291352,
        0.085992531567, 0.091488328610, 0.040394442032, 0.249977481869, 0.018775617357,
    ],
    'vit': [
        4.163808623587, 1.372878684938, 1.393654027150, 0.702283385962, 0.736405845448,
        0.651353579590, 0.905607322500, 0.487802153636, 0.552019959603, 0.743115774570,
        0.770992439840, 0.566767519370, 0.564152803887, 0.372838242190, 0.641916028003,
        0.369769955642, 0.713088692893, 0.318320136892, 0.655731116007, 0.716305157463,
    ],
}  # fmt: skip


def fill(model: nn.Module, rng: np.random.Generator) -> None:
    """Draw all parameters with NumPy."""
    for name, p in model.named_parameters():
        p.data = torch.from_numpy(
            rng.normal(float('norm' in name and 'weight' in name), 0.2, p.shape)
        )


def run(backbone: dict) -> list[float]:
    rng = np.random.default_rng(0)
    target = dict(type='TokenTarget', tokenizer=VAE)
    settings = dict(arch=ARCH, drop_path_rate=0.2, **backbone)
    model = make_pretrainer(target, K, NUM_MASKED, **settings).double()
    model.data_preprocessor = BaseDataPreprocessor()
    fill(model, rng)
    fill(model.target.tokenizer_module.double(), rng)
    model.target.has_weights = True
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.05, fused=True)
    wrapper = OptimWrapper(optimizer, clip_grad=dict(max_norm=1.0))
    torch.manual_seed(0)
    losses = []
    for _ in range(STEPS):
        mask = np.zeros((BATCH, 16), bool)
        for row, hidden in zip(mask, (NUM_MASKED, NUM_MASKED, NUM_MASKED - 2), strict=True):
            row[rng.permutation(16)[:hidden]] = True
        inputs = dict(
            patch_view=torch.from_numpy(rng.normal(size=(BATCH, 3, 32, 32))),
            token_view=torch.from_numpy(rng.random((BATCH, 3, 8, 8))),
            mask=torch.from_numpy(mask.reshape(BATCH, 4, 4)),
        )
        model.train()
        losses.append(model.train_step(dict(inputs=inputs), wrapper)['loss'].item())
    return losses


@pytest.mark.parametrize(
    'name, backbone', [('beit', BEIT), ('vit', VIT), ('checkpointing', BEIT | dict(with_cp=True))]
)
def test_losses_of_twenty_steps_are_unchanged(name, backbone):
    expected = GOLDEN['beit' if name == 'checkpointing' else name]
    np.testing.assert_allclose(run(backbone), expected, rtol=1e-9)

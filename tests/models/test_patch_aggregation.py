"""BEiT v2's patch aggregation: what it computes, at what cost, and how it starts."""

import math

import pytest
import torch
import torch.nn.functional as F
from flops import Flops
from mmengine.model import BaseDataPreprocessor
from mmengine.optim import OptimWrapper
from small import ARCH, make_pretrainer
from torch import Tensor, nn

from beit_mm.models import BEiT, BEiTPretrainer

pytestmark = pytest.mark.any_stack

K, NUM_MASKED, GRID = 16, 6, (4, 4)
EARLY, FURTHER = 2, 2  # of four blocks
AGGREGATION = dict(layer=EARLY, num_blocks=FURTHER)
SETTINGS = dict(rel_pos_bias='shared', layer_scale=0.1)
TOKENS = dict(
    type='TokenTarget',
    tokenizer=dict(type='DiscreteVAE', vocab_size=K, width=8, groups=2, blocks=1, width_in=4),
)


def make(target: dict = TOKENS, **backbone) -> BEiTPretrainer:
    """Return a model in float64, whose parameters are random instead of their initial values."""
    torch.manual_seed(0)
    channels = K if target['type'] == 'TokenTarget' else 192
    settings = dict(patch_aggregation=AGGREGATION) | SETTINGS | backbone
    model = make_pretrainer(target, channels, NUM_MASKED, **settings)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model.double()


def batch() -> dict[str, Tensor]:
    """Return two images with six and four masked patches."""
    rng = torch.Generator().manual_seed(1)
    mask = torch.zeros(2, *GRID, dtype=torch.bool)
    mask[0, 1:3, :3] = True
    mask[1, :2, 2:] = True
    return dict(
        patch_view=torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=rng),
        token_ids=torch.randint(K, (2, *GRID), generator=rng),
        mask=mask,
    )


def sequences(backbone: BEiT, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return all patches of the last block and of the further blocks, computed block by block."""
    x = backbone._embed(image, mask, GRID)
    bias = backbone.rel_pos_bias(GRID)
    outputs = []
    for block in backbone.blocks:
        x = block(x, GRID, bias)
        outputs.append(x)
    aggregated = torch.cat([x[:, :1], outputs[EARLY - 1][:, 1:]], 1)
    for block in backbone.cls_pt_layers:
        aggregated = block(aggregated, GRID, bias)
    return backbone.norm(x)[:, 1:], backbone.norm(aggregated)[:, 1:]


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('recover', ['masked', 'all'])
@pytest.mark.parametrize('target', [TOKENS, dict(type='PixelTarget', patch_size=8)])
def test_both_losses_and_the_gradient_of_their_sum(target, recover, with_cp):
    """Spelled out with full sequences and boolean indexing. No parameter is idle."""
    model, inputs = make(target | dict(recover=recover), with_cp=with_cp).train(), batch()
    where = inputs['mask'].flatten(1)
    if recover == 'all':
        where = torch.ones_like(where)
    criterion = F.cross_entropy if target is TOKENS else F.mse_loss
    labels = model.target(inputs).flatten(1, 2)[where]
    expected = [
        criterion(model.head(patches[where]), labels)
        for patches in sequences(model.backbone, inputs['patch_view'], inputs['mask'])
    ]
    found = model.loss(inputs)
    losses = [found['loss_last'], found['loss_aggregated']]
    assert 'loss' not in found and not torch.isclose(*losses, rtol=1e-3)
    torch.testing.assert_close(losses, expected, rtol=1e-12, atol=0)
    parameters = list(model.parameters())
    gradients = [torch.autograd.grad(sum(pair), parameters) for pair in (losses, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)
    assert all(gradient.any() for gradient in gradients[0])


def test_the_logged_loss_is_the_sum_of_both():
    model = make()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), 0.0))
    model.data_preprocessor = BaseDataPreprocessor()
    logged = model.train_step(dict(inputs=batch()), wrapper)
    assert logged['loss'] == logged['loss_last'] + logged['loss_aggregated']
    assert logged['loss_last'].item() == model.loss(batch())['loss_last'].item()


def test_without_patch_ids_the_features_are_those_of_the_plain_backbone():
    """Fine-tuning, attention maps and validation read the last block."""
    aggregating, plain = make(), make(patch_aggregation=None)
    plain.load_state_dict(aggregating.state_dict(), strict=False)
    inputs = batch()
    assert torch.equal(aggregating.extract_feat(inputs)[0], plain.extract_feat(inputs)[0])
    assert len(aggregating.extract_feat(inputs)) == 1
    for found, expected in zip(aggregating.predict(inputs), plain.predict(inputs), strict=True):
        torch.testing.assert_close(found.log_p_tokens, expected.log_p_tokens)


def flops(function, *args) -> int:
    with torch.no_grad(), Flops() as counter:
        function(*args)
    return counter.total


def test_the_last_further_block_computes_only_the_patches_that_are_read():
    """The last block computes these and [CLS]. Shapes do not depend on the mask."""
    inputs, cost = batch(), {}
    patch_ids = torch.arange(NUM_MASKED).expand(2, -1)
    for aggregation in (None, AGGREGATION):
        backbone = make(patch_aggregation=aggregation).backbone.eval()
        cost[aggregation is None] = flops(backbone, inputs['patch_view'], None, patch_ids)
    x, block = torch.zeros(2, 17, 32, dtype=torch.float64), backbone.blocks[0].eval()
    rows = {m: torch.zeros(2, m, dtype=torch.int64) for m in (NUM_MASKED, NUM_MASKED + 1)}
    bias = backbone.rel_pos_bias(GRID)
    full, masked, with_cls = (flops(block, x, GRID, bias, r) for r in (None, *rows.values()))
    assert cost[False] - cost[True] == (FURTHER - 1) * full + masked + (with_cls - masked)
    assert masked < with_cls < full


@pytest.mark.parametrize(('layer', 'further'), [(2, [0.2, 0.3]), (3, [0.225, 0.3])])
def test_further_blocks_start_as_the_blocks_after_the_early_one(layer, further):
    """Drop path, LayerScale and the rescaled weights are those of the blocks l + 1 and l + 2."""
    torch.manual_seed(0)
    arch = ARCH | dict(embed_dims=256, feedforward_channels=512)
    model = BEiT(arch, 32, 8, **SETTINGS, drop_path_rate=0.3, patch_aggregation=dict(layer=layer))
    model.init_weights()
    rates = [block.drop_path_rate for block in model.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])
    assert [block.drop_path_rate for block in model.cls_pt_layers] == pytest.approx(further)
    for number, block in enumerate(model.cls_pt_layers, layer + 1):
        largest = 0.02 / math.sqrt(2 * number)
        for weight in (block.attn.proj.weight, block.mlp.fc2.weight):
            assert 0.95 * largest < weight.abs().max() <= largest + 1e-9
        assert (block.gamma_1 == 0.1).all() and (block.gamma_2 == 0.1).all()


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(patch_aggregation=dict(layer=4)), r'layer=4: expected a block before the last one, 1 … 3'),
        (dict(patch_aggregation=dict(layer=0)), r'patch_aggregation\.layer=0: expected'),
        (dict(patch_aggregation=dict(layer=2, num_blocks=0)), r'patch_aggregation\.num_blocks=0: expected'),
        (dict(patch_aggregation=dict(layers=2)), r"=\{'layers': 2\}: expected dict\(layer=…\)"),
        (dict(patch_aggregation=2), r'patch_aggregation=2: expected dict\(layer=…\)'),
        (dict(patch_aggregation=AGGREGATION, out_type='featmap'), r"aggregation need a backbone with out_type='raw'"),
        (dict(patch_aggregation=AGGREGATION, out_indices=1), r'aggregation need a backbone with .* and out_indices=-1'),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_trained_are_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        BEiT(ARCH, 32, 8, **settings)

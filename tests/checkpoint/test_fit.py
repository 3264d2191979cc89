"""Weights go from task to task: every key is loaded, skipped for a logged reason, or an error; a file runs nothing."""

import pytest
import torch
from mmengine.logging import MMLogger

from beit_mm.checkpoint import load_backbone, load_tokenizer
from beit_mm.checkpoint.fit import _SHARED as SHARED
from beit_mm.checkpoint.fit import adapt_patch_embed
from beit_mm.models import BEiT, DiscreteVAE
from beit_mm.models.embeddings import resize_pos_embed
from beit_mm.models.relative_position import resize_bias_table

pytestmark = pytest.mark.any_stack

ARCH = dict(embed_dims=32, num_layers=4, num_heads=4, feedforward_channels=64)
PRETRAIN = dict(rel_pos_bias='shared', layer_scale=0.1, mask_token=True)
CLASSIFY = dict(rel_pos_bias='per_layer', layer_scale=0.1, out_type='avg_featmap')
SEGMENT = dict(rel_pos_bias='per_layer', layer_scale=0.1, out_type='featmap', out_indices=(1, 3))
VANILLA = dict(abs_pos_embed=True)
HEADS = dict(
    pretrain=('head.proj.weight', 'target_fingerprint'),
    classify=('head.fc.weight',),
    segment=('decode_head.x',),
)
TABLE = 'relative_position_bias_table'


def make(seed: int = 1, **kwargs) -> BEiT:
    """A small BEiT whose every parameter is drawn."""
    torch.manual_seed(seed)
    model = BEiT(**dict(arch=ARCH, img_size=32, patch_size=8) | kwargs).double()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model.eval()


def save(
    path,
    model: torch.nn.Module,
    prefix: str = 'backbone.',
    others: tuple = (),
    wrapper: str = 'state_dict',
) -> str:
    state = {prefix + k: v for k, v in model.state_dict().items()} | {
        k: torch.zeros(2) for k in others
    }
    torch.save({wrapper: state, 'meta': dict(epoch=3)} if wrapper else state, path)
    return str(path)


def image(side: int = 32) -> torch.Tensor:
    return torch.randn(
        2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )


def last_block(model: BEiT, x: torch.Tensor) -> torch.Tensor:
    """The sequence before any final norm: what all tasks share."""
    seen = []
    handle = model.blocks[-1].register_forward_hook(lambda *args: seen.append(args[-1]))
    model(x)
    handle.remove()
    return seen[0]


@pytest.fixture
def log(caplog):
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


# -- from task to task -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('prefix', ['backbone.', 'module.backbone.', ''])
@pytest.mark.parametrize('task', [CLASSIFY, SEGMENT], ids=['classify', 'segment'])
def test_what_pre_training_wrote_each_task_computes(tmp_path, log, task, prefix):
    source, target = make(**PRETRAIN), make(2, **task)
    others = HEADS['pretrain'] if prefix else ()
    path = save(tmp_path / 'pretrain.pth', source, prefix, others)
    load_backbone(target, path)
    torch.testing.assert_close(
        last_block(target, image()), last_block(source, image()), rtol=1e-12, atol=1e-12
    )
    for block in target.blocks:
        assert torch.equal(
            block.attn.relative_position_bias_table,
            source.rel_pos_bias.relative_position_bias_table,
        )
    assert (
        '1  expanded   rel_pos_bias.relative_position_bias_table (copied into 4 layers)' in log.text
    )
    assert '1  skipped    mask_token (used in pre-training only)' in log.text
    assert '1  skipped    norm.weight (mean pooling and feature maps precede it)' in log.text
    assert ('skipped    head.* (no part of the backbone)' in log.text) is bool(others)
    assert ("skipped    target_fingerprint (a record of the run's targets)" in log.text) is bool(
        others
    )
    assert ('1  new        fc_norm.weight (not in the checkpoint)' in log.text) is (
        task is CLASSIFY
    )
    assert f'{len(target.state_dict()) - (2 if task is CLASSIFY else 0)}  loaded' in log.text


def test_what_classification_wrote_segmentation_computes(tmp_path, log):
    source, target = make(**CLASSIFY), make(2, **SEGMENT)
    load_backbone(target, save(tmp_path / 'c.pth', source, others=HEADS['classify']))
    torch.testing.assert_close(
        last_block(target, image()), last_block(source, image()), rtol=1e-12, atol=1e-12
    )
    assert 'skipped    fc_norm.bias (belongs to the pooled feature)' in log.text
    assert 'skipped    head.* (no part of the backbone)' in log.text


@pytest.mark.parametrize(
    'kwargs', [PRETRAIN, CLASSIFY, SEGMENT, VANILLA, PRETRAIN | dict(img_size=(16, 64))]
)
def test_a_model_reads_what_it_wrote(tmp_path, kwargs, log):
    """Also on a grid of 2×8, which has as many patches as 4×4."""
    source, target = make(**kwargs), make(2, **kwargs)
    load_backbone(target, save(tmp_path / 'own.pth', source))
    assert all(torch.equal(v, target.state_dict()[k]) for k, v in source.state_dict().items())
    assert 'skipped' not in log.text and 'new' not in log.text


def test_a_grid_with_as_many_patches_as_a_square_is_left_alone(tmp_path):
    kwargs = dict(img_size=(16, 64), **VANILLA)
    source, target = make(**kwargs), make(2, **kwargs)
    load_backbone(target, save(tmp_path / 'own.pth', source))
    assert torch.equal(target.pos_embed, source.pos_embed)


@pytest.mark.parametrize(('size', 'grid'), [(64, (8, 8)), (16, (2, 2)), ((48, 24), (6, 3))])
def test_positions_are_resized_to_the_models_grid(tmp_path, size, grid):
    source, target = make(**PRETRAIN), make(2, img_size=size, **SEGMENT)
    load_backbone(target, save(tmp_path / 'a.pth', source))
    expected = resize_bias_table(source.rel_pos_bias.relative_position_bias_table, (4, 4), grid)
    assert all(
        torch.equal(block.attn.relative_position_bias_table, expected) for block in target.blocks
    )

    source, target = make(**VANILLA), make(2, img_size=size, **VANILLA)
    load_backbone(target, save(tmp_path / 'b.pth', source))
    assert torch.equal(target.pos_embed, resize_pos_embed(source.pos_embed, (4, 4), grid))


@pytest.mark.parametrize(
    'kwargs', [dict(rel_pos_bias='shared'), dict(abs_pos_embed=True)], ids=['table', 'absolute']
)
def test_positions_of_a_grid_that_is_not_square_need_it_said_and_come_back(tmp_path, kwargs):
    """A table of 2×6 patches has as many rows as one of 6×2, and 12 positions are of no square grid."""
    source, target = make(img_size=(16, 48), **kwargs), make(2, img_size=(32, 64), **kwargs)
    path = save(tmp_path / 'a.pth', source)
    with pytest.raises(
        ValueError, match=r'of another shape: (pos_embed|rel_pos_bias).*grid=\(h, w\)'
    ):
        load_backbone(target, path)
    load_backbone(target, path, grid=(2, 6))
    key = 'pos_embed' if 'abs_pos_embed' in kwargs else SHARED
    wanted = resize_pos_embed if key == 'pos_embed' else resize_bias_table
    assert torch.equal(target.state_dict()[key], wanted(source.state_dict()[key], (2, 6), (4, 8)))

    same = make(
        3,
        img_size=(16, 48),
        init_cfg=dict(type='Pretrained', checkpoint=path, grid=(2, 6)),
        **kwargs,
    )
    same.init_weights()
    assert torch.equal(same.state_dict()[key], source.state_dict()[key])


def test_resizing_when_loading_is_resizing_at_run_time(tmp_path):
    source, target = make(**PRETRAIN), make(2, img_size=48, **SEGMENT)
    load_backbone(target, save(tmp_path / 'a.pth', source))
    torch.testing.assert_close(
        last_block(target, image(48)), last_block(source, image(48)), rtol=1e-9, atol=1e-9
    )


def test_init_cfg_loads_last_and_none_leaves_the_initial_weights(tmp_path):
    source = make(**PRETRAIN)
    path = save(tmp_path / 'a.pth', source)
    target = make(2, init_cfg=dict(type='Pretrained', checkpoint=path), **SEGMENT)
    target.init_weights()
    assert torch.equal(target.patch_embed.proj.weight, source.patch_embed.proj.weight)
    scratch = make(2, init_cfg=dict(type='Pretrained', checkpoint=None), **SEGMENT)
    scratch.init_weights()
    assert scratch.patch_embed.proj.weight.abs().max() <= 0.02


# -- what does not fit -------------------------------------------------------------------------------------------------


def deeper() -> dict:
    return dict(arch=ARCH | dict(num_layers=5))


@pytest.mark.parametrize(
    ('source', 'target', 'message'),
    [
        (PRETRAIN, SEGMENT | deeper(), r'Missing: blocks\.4\.'),
        (PRETRAIN | deeper(), SEGMENT, r'unexpected: blocks\.4\.'),
        (PRETRAIN | dict(arch=ARCH | dict(embed_dims=16)), SEGMENT, r'shape: cls_token: \(1, 1, 16\) ≠ \(1, 1, 32\)'),
        (PRETRAIN | dict(arch=ARCH | dict(num_heads=2)), SEGMENT, rf'{TABLE}: \(52, 2\) ≠ \(52, 4\)'),
        (PRETRAIN, SEGMENT | dict(layer_scale=None), r'unexpected: blocks\.0\.gamma_1'),
        (VANILLA, SEGMENT, r'Missing: .*gamma_1.*; unexpected: pos_embed'),
        (PRETRAIN, dict(layer_scale=0.1), rf'unexpected: {SHARED}'),
        (SEGMENT, dict(layer_scale=0.1, rel_pos_bias='shared'), rf'Missing: {SHARED}; .*blocks\.0\.attn\.{TABLE}'),
        (PRETRAIN | dict(patch_size=16), SEGMENT, r'patch_embed\.proj\.weight: \(32, 3, 16, 16\) ≠ \(32, 3, 8, 8\)'),
        (SEGMENT, PRETRAIN, r'Missing: mask_token'),
    ],
)  # fmt: skip
def test_another_arch_is_an_error_that_names_the_keys_and_loads_nothing(
    tmp_path, source, target, message
):
    path, model = save(tmp_path / 'a.pth', make(**source)), make(2, **target)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match=rf'a\.pth does not fit this BEiT.*{message}'):
        load_backbone(model, path)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize('prefix', ['backbone.', ''])
def test_a_key_that_nobody_knows_is_an_error(tmp_path, prefix):
    path = save(tmp_path / 'a.pth', make(**PRETRAIN), prefix, (f'{prefix}blocks.0.surprise',))
    with pytest.raises(
        ValueError, match=r'unexpected: blocks\.0\.surprise; of another shape: none'
    ):
        load_backbone(make(**SEGMENT), path)


def test_a_missing_key_is_an_error(tmp_path):
    state = make(**PRETRAIN).state_dict()
    del state['blocks.2.attn.q_bias'], state['norm.weight']
    torch.save(state, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'Missing: blocks\.2\.attn\.q_bias; unexpected: none'):
        load_backbone(make(**SEGMENT), str(tmp_path / 'a.pth'))


# -- the tokenizer -----------------------------------------------------------------------------------------------------

VAE = dict(vocab_size=16, width=4, groups=2, blocks=1, width_in=4)


def test_a_tokenizer_goes_through(tmp_path):
    torch.manual_seed(0)
    source = DiscreteVAE(**VAE)
    path = save(tmp_path / 'vae.pth', source, prefix='', others=('data_preprocessor.mean',))
    for target in (
        DiscreteVAE(**VAE),
        DiscreteVAE(**VAE, init_cfg=dict(type='Pretrained', checkpoint=path)),
    ):
        load_tokenizer(target, path) if target.init_cfg is None else target.init_weights()
        assert all(torch.equal(v, source.state_dict()[k]) for k, v in target.state_dict().items())


# -- other channels, another patch size ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('channels', 'patch_size'), [(1, 8), (2, 8), (4, 8), (13, 8), (3, 4), (3, 16), (4, 5), (3, 8)]
)
def test_an_adapt_patch_embedding_is_timms(channels, patch_size):
    from timm.layers import resample_patch_embed
    from timm.models._manipulate import adapt_input_conv

    weight = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = adapt_input_conv(channels, resample_patch_embed(weight, [patch_size] * 2))
    torch.testing.assert_close(
        adapt_patch_embed(weight, channels, patch_size), expected, rtol=0, atol=1e-6
    )


def test_weights_of_rgb_are_adapted_if_asked_for(tmp_path, log):
    """A grey image gives what it gave as RGB."""
    source = make(**VANILLA)
    path = save(tmp_path / 'a.pth', source)
    init = dict(type='Pretrained', checkpoint=path, adapt_patch_embed=True)
    target = make(2, in_channels=1, init_cfg=init, **VANILLA)
    target.init_weights()
    grey = image()[:, :1]
    torch.testing.assert_close(
        target(grey)[0], source(grey.expand(-1, 3, -1, -1))[0], rtol=1e-5, atol=1e-5
    )
    assert '1  adapted    patch_embed.proj.weight (3 → 1 channels, patch 8 → 8 pixels)' in log.text
    make(2, in_channels=4, patch_size=4, init_cfg=init, **VANILLA).init_weights()
    assert 'adapted    patch_embed.proj.weight (3 → 4 channels, patch 8 → 4 pixels)' in log.text
    assert 'resized    pos_embed (4×4 → 8×8 patches)' in log.text

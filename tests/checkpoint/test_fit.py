"""Weights fit every task: each key is loaded, skipped for a logged reason, or an error."""

import pytest
import torch
from small import randomize, same_tensors

from beit_mm.checkpoint import load_backbone
from beit_mm.checkpoint.fit import adapt_patch_embed, check_fit
from beit_mm.models import BEiT
from beit_mm.models.embeddings import resize_pos_embed
from beit_mm.models.relative_position import resize_bias_table

pytestmark = pytest.mark.any_stack

ARCH = dict(embed_dims=32, num_layers=4, num_heads=4, feedforward_channels=64)
PRETRAIN = dict(rel_pos_bias='shared', layer_scale=0.1, mask_token=True)
CLASSIFY = dict(rel_pos_bias='per_layer', layer_scale=0.1, out_type='avg_featmap')
SEGMENT = dict(rel_pos_bias='per_layer', layer_scale=0.1, out_type='featmap', out_indices=(1, 3))
VANILLA = dict(abs_pos_embed=True)
TABLE = 'relative_position_bias_table'
SHARED = f'rel_pos_bias.{TABLE}'


def make(seed: int = 1, **kwargs) -> BEiT:
    """Return a small BEiT with random parameters."""
    torch.manual_seed(seed)
    model = BEiT(**dict(arch=ARCH, img_size=32, patch_size=8) | kwargs).double()
    return randomize(model).eval()


def save(path, model: BEiT, prefix: str = 'backbone.', others: tuple = ()) -> str:
    state = {prefix + key: value for key, value in model.state_dict().items()}
    torch.save(dict(state_dict=state | dict.fromkeys(others, torch.zeros(2)), meta={}), path)
    return str(path)


def image(side: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, 3, side, side, dtype=torch.float64, generator=generator)


def last_block(model: BEiT, x: torch.Tensor) -> torch.Tensor:
    """Return the sequence before any final norm, which all tasks share."""
    seen = []
    handle = model.blocks[-1].register_forward_hook(lambda *args: seen.append(args[-1]))
    model(x)
    handle.remove()
    return seen[0]


# -- from task to task


HEAD = '1  skipped    head.* (no part of the backbone)'
FROM_PRETRAINING = [
    HEAD,
    "1  skipped    target_fingerprint (a record of the run's targets)",
    f'1  expanded   {SHARED} (copied into 4 layers)',
    '1  skipped    mask_token (used in pre-training only)',
    '1  skipped    norm.weight (mean pooling and feature maps precede it)',
]


@pytest.mark.parametrize('prefix', ['backbone.', 'module.backbone.', ''])
@pytest.mark.parametrize(
    ('before', 'after', 'rows'),
    [
        (PRETRAIN, CLASSIFY, [*FROM_PRETRAINING, '1  new        fc_norm.weight (not in the checkpoint)']),
        (PRETRAIN, SEGMENT, FROM_PRETRAINING),
        (CLASSIFY, SEGMENT, [HEAD, '1  skipped    fc_norm.bias (belongs to the pooled feature)']),
    ],
)  # fmt: skip
def test_every_task_computes_what_the_one_before_wrote(tmp_path, log, before, after, rows, prefix):
    source, target = make(**before), make(2, **after)
    others = ('head.proj.weight', 'target_fingerprint') if prefix else ()
    load_backbone(target, save(tmp_path / 'a.pth', source, prefix, others))
    torch.testing.assert_close(
        last_block(target, image()), last_block(source, image()), rtol=1e-12, atol=1e-12
    )
    rows = rows if prefix else [row for row in rows if row not in FROM_PRETRAINING[:2]]
    assert [row for row in rows if row not in log.text] == []
    num_new = sum('new' in row for row in rows) * 2  # weight and bias
    assert f'{len(target.state_dict()) - num_new}  loaded' in log.text


@pytest.mark.parametrize(
    'kwargs', [PRETRAIN, CLASSIFY, SEGMENT, *(kind | dict(img_size=(16, 64)) for kind in (PRETRAIN, VANILLA))]
)  # fmt: skip
def test_a_model_reads_what_it_wrote(tmp_path, kwargs, log):
    """Also on a grid of 2×8, which has as many patches as 4×4."""
    source, target = make(**kwargs), make(2, **kwargs)
    load_backbone(target, save(tmp_path / 'own.pth', source))
    assert same_tensors(source.state_dict(), target.state_dict())
    assert 'skipped' not in log.text and 'new' not in log.text


@pytest.mark.parametrize(('size', 'grid'), [(64, (8, 8)), (16, (2, 2)), ((48, 24), (6, 3))])
def test_positions_are_resized_to_the_models_grid(tmp_path, size, grid):
    source, target = make(**PRETRAIN), make(2, img_size=size, **SEGMENT)
    load_backbone(target, save(tmp_path / 'a.pth', source))
    expected = resize_bias_table(source.state_dict()[SHARED], (4, 4), grid)
    for block in target.blocks:
        assert torch.equal(block.attn.relative_position_bias_table, expected)
    source, target = make(**VANILLA), make(2, img_size=size, **VANILLA)
    load_backbone(target, save(tmp_path / 'b.pth', source))
    assert torch.equal(target.pos_embed, resize_pos_embed(source.pos_embed, (4, 4), grid))


@pytest.mark.parametrize(
    ('key', 'kwargs', 'resize'),
    [(SHARED, dict(rel_pos_bias='shared'), resize_bias_table), ('pos_embed', VANILLA, resize_pos_embed)],
)  # fmt: skip
def test_positions_of_a_grid_that_is_not_square_need_its_size(tmp_path, key, kwargs, resize):
    """A table of 2×6 patches has as many rows as one of 6×2."""
    source, target = make(img_size=(16, 48), **kwargs), make(2, img_size=(32, 64), **kwargs)
    path = save(tmp_path / 'a.pth', source)
    with pytest.raises(ValueError, match=rf'of another shape: {key}.*grid=\(h, w\)'):
        load_backbone(target, path)
    target.init_cfg = dict(type='Pretrained', checkpoint=path, grid=(2, 6))
    target.init_weights()
    assert torch.equal(target.state_dict()[key], resize(source.state_dict()[key], (2, 6), (4, 8)))


def test_resizing_when_loading_is_resizing_at_run_time(tmp_path):
    source, target = make(**PRETRAIN), make(2, img_size=48, **SEGMENT)
    load_backbone(target, save(tmp_path / 'a.pth', source))
    torch.testing.assert_close(
        last_block(target, image(48)), last_block(source, image(48)), rtol=1e-9, atol=1e-9
    )


def test_stored_values_of_a_data_preprocessor_are_not_compared():
    model = torch.nn.ModuleDict(dict(data_preprocessor=torch.nn.BatchNorm2d(3)))
    check_fit(model, model.state_dict(), 'a.pth')
    check_fit(model, {}, 'a.pth')


# -- other channels, another patch size


@pytest.mark.parametrize(
    ('channels', 'patch_size'), [(1, 8), (2, 8), (4, 8), (13, 8), (3, 4), (3, 16), (4, 5), (3, 8)]
)
def test_an_adapted_patch_embedding_is_timms(channels, patch_size):
    from timm.layers import resample_patch_embed
    from timm.models._manipulate import adapt_input_conv

    weight = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = adapt_input_conv(channels, resample_patch_embed(weight, [patch_size] * 2))
    found = adapt_patch_embed(weight, channels, patch_size)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_weights_of_rgb_are_adapted_on_request(tmp_path, log):
    """A gray image has the output that it has as RGB."""
    source = make(**VANILLA)
    path = save(tmp_path / 'a.pth', source)
    init = dict(type='Pretrained', checkpoint=path, adapt_patch_embed=True)
    target = make(2, in_channels=1, init_cfg=init, **VANILLA)
    target.init_weights()
    gray = image()[:, :1]
    expected = source(gray.expand(-1, 3, -1, -1))[0]
    torch.testing.assert_close(target(gray)[0], expected, rtol=1e-5, atol=1e-5)
    assert '1  adapted    patch_embed.proj.weight (3 → 1 channels, patch 8 → 8 pixels)' in log.text
    make(2, in_channels=4, patch_size=4, init_cfg=init, **VANILLA).init_weights()
    assert 'adapted    patch_embed.proj.weight (3 → 4 channels, patch 8 → 4 pixels)' in log.text
    assert 'resized    pos_embed (4×4 → 8×8 patches)' in log.text

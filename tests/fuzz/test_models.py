"""Models of any settings, on images of any size: refused by name, or they compute what they say."""

import pytest
import torch
from fuzz.chance import any_int, examples, mostly, refused, small, wrong
from hypothesis import assume, given
from hypothesis import strategies as st
from mmengine.structures import PixelData
from mmseg.models import UPerHead as TheirUPerHead
from mmseg.structures import SegDataSample

from beit_mm.models import (
    BEiT,
    BEiTPretrainer,
    DiscreteVAE,
    MIMDataPreprocessor,
    MIMHead,
    PixelTarget,
    SETRPUPHead,
    TokenTarget,
    UPerHead,
)
from beit_mm.models.patchwise import PatchwiseBEiT
from beit_mm.models.relative_position import relative_position_index, resize_bias_table, table_rows
from beit_mm.models.sliding import starts

pytestmark = pytest.mark.any_stack

FUZZED = {
    'BEiT',
    'BEiTPretrainer',
    'DiscreteVAE',
    'EncoderDecoder',
    'MIMDataPreprocessor',
    'MIMHead',
    'PatchwiseBEiT',
    'PixelTarget',
    'SETRPUPHead',
    'TokenTarget',
    'UPerHead',
}
ARCH = dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=8)
CODES = dict(
    type='beit_mm.DiscreteVAE', vocab_size=5, width=4, groups=3, blocks=1, width_in=4
)  # a token for 4×4 pixels
other_int = st.one_of(any_int, wrong)


def learns(model: torch.nn.Module, loss: torch.Tensor) -> None:
    """The loss is finite, and so is each parameter's gradient, which is there."""
    loss.backward()
    assert loss.isfinite()
    idle = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle and all(
        p.grad.isfinite().all() for p in model.parameters() if p.grad is not None
    )


@examples(300)
@given(
    kind=st.sampled_from([BEiT, BEiT, BEiT, PatchwiseBEiT]),
    arch=st.fixed_dictionaries(
        dict(
            embed_dims=mostly(st.sampled_from([4, 12, 24]), other_int),
            num_layers=mostly(st.integers(1, 3), other_int),
            num_heads=mostly(st.sampled_from([1, 2, 4]), other_int),
            feedforward_channels=mostly(st.integers(1, 20), other_int),
        )
    ),
    img_size=mostly(
        st.sampled_from([8, 16, (8, 24)]), st.one_of(other_int, st.tuples(any_int, any_int))
    ),
    patch_size=mostly(st.sampled_from([2, 4, 8]), st.one_of(st.integers(-1, 9), wrong)),
    rel_pos_bias=mostly(st.sampled_from([None, 'shared', 'per_layer'])),
    abs_pos_embed=st.booleans(),
    layer_scale=mostly(st.sampled_from([None, 0.1, 0.0])),
    out_indices=mostly(
        st.just(-1), st.one_of(st.integers(-4, 4), st.lists(st.integers(-4, 4), max_size=4), wrong)
    ),
    out_type=mostly(st.sampled_from(['raw', 'featmap', 'cls_token', 'avg_featmap'])),
    frozen_stages=mostly(st.sampled_from([-1, 0, 1]), st.one_of(st.integers(-2, 4), wrong)),
    drop_path_rate=mostly(
        st.sampled_from([0.0, 0.5]), st.one_of(st.sampled_from([1.0, -1.0, 2.0]), wrong)
    ),
    other=st.tuples(small, small),
)
def test_a_backbone_of_any_settings_is_refused_or_computes(kind, arch, other, **how):
    try:
        model = kind(arch=arch, **how)
    except Exception as error:
        return refused(error, arch=arch, **arch, **how)
    model.init_weights()
    size = tuple(max(n, 1) * model.patch_size for n in other)
    features = model.train()(torch.randn(2, 3, *size))
    grid = size[0] // model.patch_size, size[1] // model.patch_size
    dims = arch['embed_dims']
    shape = dict(
        raw=(2, 1 + grid[0] * grid[1], dims),
        featmap=(2, dims, *grid),
        cls_token=(2, dims),
        avg_featmap=(2, dims),
    )[how['out_type']]
    assert all(tuple(f.shape) == shape and f.isfinite().all() for f in features)


@examples(60)
@given(
    size=st.tuples(st.integers(0, 40), st.integers(0, 40)), patch_size=st.integers(1, 6),
    positions=st.sampled_from([dict(abs_pos_embed=True), dict(rel_pos_bias='shared'), dict(rel_pos_bias='per_layer')]),
)  # fmt: skip
def test_an_image_of_any_size_is_refused_or_seen(size, patch_size, positions):
    model = BEiT(ARCH, img_size=2 * patch_size, patch_size=patch_size, **positions)
    try:
        (features,) = model(torch.randn(1, 3, *size))
    except ValueError as error:
        assert f'{size[0]}×{size[1]}' in str(error) and (
            0 in size or size[0] % patch_size or size[1] % patch_size
        )
        return 'refused'
    assert features.isfinite().all() and features.shape[1] == 1 + size[0] * size[1] // patch_size**2


@examples(60)
@given(
    vocab_size=mostly(st.integers(2, 20), st.one_of(st.integers(-1, 1), wrong)),
    width=mostly(st.integers(4, 12), st.one_of(st.integers(-1, 3), wrong)),
    groups=mostly(st.integers(1, 4), st.one_of(st.integers(-1, 0), wrong)),
    blocks=mostly(st.integers(1, 2), st.one_of(st.integers(-1, 0), wrong)),
    width_in=mostly(st.integers(4, 8), st.one_of(st.integers(-1, 3), wrong)),
    likelihood=mostly(st.sampled_from(['logit_laplace', 'mse', 'l1'])),
    beta=mostly(st.sampled_from([0.0, 1.0, 6])),
    temperature=mostly(st.sampled_from([1.0, 0.5, 2])),
    straight_through=st.booleans(),
    size=mostly(
        st.sampled_from([(8, 16), (24, 8)]), st.tuples(st.integers(0, 40), st.integers(0, 40))
    ),
)
def test_a_tokenizer_of_any_settings_is_refused_or_learns(size, **how):
    try:
        model = DiscreteVAE(**how)
    except Exception as error:
        return refused(error, **how)
    try:
        losses = model.loss(torch.rand(2, 3, *size))
    except ValueError as error:
        assert f'{size[0]}×{size[1]}' in str(error) and (
            0 in size or size[0] % model.stride or size[1] % model.stride
        )
        return 'refused'
    learns(model, losses['loss'])
    assert model.tokens(torch.rand(1, 3, *size)).max() < how['vocab_size']


@examples(80)
@given(
    source=st.tuples(*[st.integers(1, 9)] * 2),
    target=st.tuples(*[st.integers(1, 9)] * 2),
    rows=st.integers(0, 300),
)
def test_a_table_is_resized_to_any_grid_or_its_rows_are_wrong(source, target, rows):
    table = torch.randn(table_rows(source), 2, dtype=torch.float64)
    resized = resize_bias_table(table, source, target)
    assert len(resized) == table_rows(target) and resized.isfinite().all()
    assert relative_position_index(target).max() == table_rows(target) - 1
    assume(rows != table_rows(source))
    with pytest.raises(ValueError, match='has .* rows'):
        resize_bias_table(torch.zeros(rows, 2), source, target)


@examples(80)
@given(
    in_channels=mostly(st.integers(1, 9)), out_channels=mostly(st.integers(1, 9)), places=st.integers(0, 6),
    batch=st.integers(1, 3), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_head_is_refused_or_its_loss_is_finite_whatever_is_masked(places, batch, seed, **how):
    try:
        head = MIMHead(**how)
    except Exception as error:
        return refused(error, **how)
    torch.manual_seed(seed)
    features = torch.randn(batch, places, how['in_channels'], requires_grad=True)
    target, valid = (
        torch.randint(how['out_channels'], (batch, places)),
        torch.rand(batch, places) < 0.4,
    )
    losses = head.loss(features, target, valid)
    learns(head, losses['loss'])
    assert features.grad.isfinite().all() and 0 <= losses['masked_accuracy'] <= 100.001
    assert (losses['loss'] == 0) == (not valid.any() or how['out_channels'] == 1)


@examples(60)
@given(
    in_channels=mostly(st.integers(1, 8)), channels=mostly(st.integers(1, 8)), num_stages=mostly(st.integers(1, 3)),
    num_classes=mostly(st.integers(2, 5)), upsample=mostly(st.sampled_from(['bilinear', 'deconv'])),
    dropout_ratio=mostly(st.sampled_from([0.0, 0.5])), in_index=mostly(st.sampled_from([0, -1]), wrong),
    align_corners=st.booleans(), size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)  # fmt: skip
def test_a_decoder_of_any_settings_is_refused_or_learns(size, **how):
    try:
        head = SETRPUPHead(norm_cfg=dict(type='BN'), **how)
    except Exception as error:
        return refused(error, **how)
    side = 2 ** how['num_stages']
    features, (h, w) = (
        (torch.randn(2, how['in_channels'], *size),),
        (size[0] * side, size[1] * side),
    )
    assert head(features).shape == (2, how['num_classes'], h, w)
    labels = torch.randint(how['num_classes'], (2, 1, h, w))
    losses = head.loss(
        features, [SegDataSample(gt_sem_seg=PixelData(data=one)) for one in labels], {}
    )
    learns(head, losses['loss_ce'])


@examples(60)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=2, max_size=4),
    in_channels=st.integers(1, 4), channels=st.integers(1, 4), align_corners=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_upernets_head_is_mmsegs_for_maps_of_any_sizes(
    sizes, in_channels, channels, align_corners, seed
):
    torch.manual_seed(seed)
    how = dict(
        in_channels=[in_channels] * len(sizes), in_index=list(range(len(sizes))), channels=channels, num_classes=3,
        pool_scales=(1, 2), norm_cfg=dict(type='BN'), align_corners=align_corners,
    )  # fmt: skip
    ours, theirs = UPerHead(**how).double().eval(), TheirUPerHead(**how).double().eval()
    ours.load_state_dict(
        {
            k: v + torch.rand_like(v) if v.is_floating_point() else v
            for k, v in theirs.state_dict().items()
        }
    )
    theirs.load_state_dict(ours.state_dict())
    maps = [torch.randn(2, in_channels, *size, dtype=torch.float64) for size in sizes]
    torch.testing.assert_close(ours(maps), theirs(maps), rtol=1e-9, atol=1e-9)


# -- masked image modeling -------------------------------------------------------------------------------------------------


@examples(60)
@given(
    patch_size=mostly(st.integers(1, 5)), recover=mostly(st.sampled_from(['masked', 'all'])),
    grid=st.tuples(st.integers(1, 4), st.integers(1, 4)), flat=st.booleans(),
)  # fmt: skip
def test_pixels_are_refused_or_of_mean_0_and_variance_1(grid, flat, **how):
    try:
        target = PixelTarget(**how)
    except Exception as error:
        return refused(error, **how)
    p = how['patch_size']
    view = (
        torch.ones(2, 3, grid[0] * p, grid[1] * p)
        if flat
        else torch.randn(2, 3, grid[0] * p, grid[1] * p)
    )
    patches = target(dict(patch_view=view))
    assert patches.shape == (2, *grid, target.channels) and patches.isfinite().all()
    assert patches.mean(-1).abs().max() < 1e-4 and (flat or (patches.var(-1) - 1).abs().max() < 0.1)


@examples(60)
@given(
    tokenizer=mostly(st.just(CODES)), recover=mostly(st.sampled_from(['masked', 'all'])),
    checkpoint=mostly(st.just('good')), size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)  # fmt: skip
def test_a_token_target_is_refused_or_gives_ids(size, tokenizer_file, checkpoint, **how):
    checkpoint = tokenizer_file if checkpoint == 'good' else checkpoint
    try:
        target = TokenTarget(checkpoint=checkpoint, **how)
        ids = target(dict(token_view=torch.rand(2, 3, 4 * size[0], 4 * size[1])))
    except Exception as error:
        if checkpoint is None and isinstance(error, FileNotFoundError):
            return 'refused'
        return refused(error, checkpoint=checkpoint, **how)
    assert ids.shape == (2, *size) and ids.dtype == torch.int64 and 0 <= ids.min() <= ids.max() < 5
    assert not any(p.requires_grad for p in target.tokenizer.parameters())


@pytest.fixture(scope='module')
def tokenizer_file(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp('tokenizer') / 'good.pth'
    torch.save(DiscreteVAE(**{k: v for k, v in CODES.items() if k != 'type'}).state_dict(), path)
    return str(path)


@examples(60)
@given(
    patch=mostly(st.just(4), st.sampled_from([2, 8])), view=mostly(st.just(16), st.sampled_from([8, 12, 15])),
    token_view=mostly(st.just(16), st.sampled_from([8, 18])), recover=st.sampled_from(['masked', 'all']),
    out_channels=mostly(st.just(None), st.sampled_from([4, 7])), pixels=st.booleans(),
    num_masked=mostly(st.integers(1, 16), st.one_of(st.just(40), wrong)), hidden=mostly(st.integers(0, 16), st.none()),
)  # fmt: skip
def test_pretraining_of_any_settings_is_refused_or_learns(
    tokenizer_file, patch, view, token_view, recover, out_channels, pixels, num_masked, hidden
):  # fmt: skip
    """What is refused says why: the head's width, the grids, the budget, the mask."""
    target = dict(
        type='beit_mm.TokenTarget', tokenizer=CODES, checkpoint=tokenizer_file, recover=recover
    )
    if pixels:
        target = dict(type='beit_mm.PixelTarget', patch_size=patch, recover=recover)
    width = 3 * patch**2 if pixels else 5
    try:
        model = BEiTPretrainer(
            dict(
                type='beit_mm.BEiT',
                arch=ARCH,
                img_size=16,
                patch_size=patch,
                rel_pos_bias='shared',
                mask_token=True,
            ),
            target,
            dict(
                type='beit_mm.MIMHead',
                in_channels=8,
                out_channels=width if out_channels is None else out_channels,
            ),
            num_masked,
        )
    except ValueError as error:
        if 'channels' in str(error):
            assert out_channels not in (None, width) and f'out_channels={width}' in str(error)
            return 'refused'
        return refused(error, num_masked=num_masked)
    model.init_weights()
    grid = view // patch
    mask = (
        None
        if hidden is None
        else (torch.rand(2, grid * grid).argsort(1) < hidden).view(2, grid, grid)
    )
    inputs = dict(
        patch_view=torch.randn(2, 3, view, view),
        token_view=torch.rand(2, 3, token_view, token_view),
    )
    try:
        losses = model.loss(inputs if mask is None else inputs | dict(mask=mask))
    except ValueError as error:
        reasons = {
            'no multiple of the patch': view % patch,
            'no multiple of the tokenizer': not pixels and token_view % 4,
            'token grid': not pixels and token_view // 4 != grid,
            'needs a mask': mask is None and recover == 'masked',
            'num_masked': recover == 'masked'
            and (num_masked > grid**2 or min(hidden or 0, grid**2) > num_masked),
        }
        assert any(reason and words in str(error) for words, reason in reasons.items()), error
        return 'refused'
    if mask is None:  # then nothing reads the token that stands for what is hidden
        losses['loss'] = losses['loss'] + 0 * model.backbone.mask_token.sum()
    learns(model, losses['loss'])
    data = dict(inputs=inputs if mask is None else inputs | dict(mask=mask))
    assert len(model(**data, mode='predict')) == 2


@examples(60)
@given(
    mean=mostly(st.sampled_from([(123.675, 116.28, 103.53), [127.5] * 3])),
    std=mostly(
        st.sampled_from([(58.395, 57.12, 57.375), [127.5] * 3]),
        st.one_of(wrong, st.just([1, 0, 1])),
    ),
    tokens=st.booleans(),
)
def test_a_preprocessor_is_refused_or_normalises(mean, std, tokens):
    try:
        preprocessor = MIMDataPreprocessor(mean, std)
    except Exception as error:
        return refused(error, mean=mean, std=std)
    views = dict(patch_view=torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8))
    views |= dict(token_view=torch.randint(256, (2, 3, 2, 2), dtype=torch.uint8)) if tokens else {}
    made = preprocessor(dict(inputs=views))['inputs']
    back = made['patch_view'] * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    assert (back - views['patch_view']).abs().max() < 1e-3 and made.keys() == views.keys()
    assert not tokens or 0 <= made['token_view'].min() <= made['token_view'].max() <= 1


@examples(100)
@given(size=st.integers(1, 300), crop=st.integers(1, 200), stride=st.integers(1, 200))
def test_windows_of_any_stride_up_to_their_own_size_cover_a_side(size, crop, stride):
    places = starts(size, crop, min(stride, crop))
    covered = {x for start in places for x in range(start, min(start + crop, size))}
    assert covered == set(range(size)) and places == sorted(set(places))

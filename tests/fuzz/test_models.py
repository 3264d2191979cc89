"""Models of any settings: refused by an error that names the setting, or they compute and learn."""

import pytest
import torch
from fuzz.chance import any_int, examples, mostly, refused, small, wrong
from hypothesis import given
from hypothesis import strategies as st

from beit_mm.models import (
    VQKD,
    BEiT,
    BEiTPretrainer,
    DiscreteVAE,
    MIMDataPreprocessor,
    MIMHead,
    PatchwiseBEiT,
    PixelTarget,
    SETRPUPHead,
    TokenTarget,
)

pytestmark = pytest.mark.any_stack

# EncoderDecoder and UPerHead have no arguments of their own.
FUZZED = {
    'BEiT', 'BEiTPretrainer', 'DiscreteVAE', 'EncoderDecoder', 'MIMDataPreprocessor', 'MIMHead',
    'PatchwiseBEiT', 'PixelTarget', 'SETRPUPHead', 'Teacher', 'TokenTarget', 'UPerHead', 'VQKD',
}  # fmt: skip
ARCH = dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=8)
VAE = dict(vocab_size=5, width=4, groups=3, blocks=1, width_in=4)  # stride 4
TOKENIZER = dict(type='beit_mm.DiscreteVAE', **VAE)
RECOVER = mostly(st.sampled_from(['masked', 'all']))
other_int = st.one_of(any_int, wrong)


def integers(low: int, high: int) -> st.SearchStrategy:
    return mostly(st.integers(low, high), st.one_of(st.integers(-1, 0), wrong))


def assert_learns(model: torch.nn.Module, loss: torch.Tensor) -> None:
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


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
    img_size=mostly(st.sampled_from([8, 16, (8, 24)]), st.one_of(other_int, st.tuples(any_int, any_int))),
    patch_size=mostly(st.sampled_from([2, 4, 8]), st.one_of(st.integers(-1, 9), wrong)),
    rel_pos_bias=mostly(st.sampled_from([None, 'shared', 'per_layer'])),
    abs_pos_embed=st.booleans(),
    layer_scale=mostly(st.sampled_from([None, 0.1, 0.0])),
    out_indices=mostly(st.just(-1), st.one_of(st.integers(-4, 4), st.lists(st.integers(-4, 4), max_size=4), wrong)),
    out_type=mostly(st.sampled_from(['raw', 'featmap', 'cls_token', 'avg_featmap'])),
    frozen_stages=mostly(st.sampled_from([-1, 0, 1]), st.one_of(st.integers(-2, 4), wrong)),
    drop_path_rate=mostly(st.sampled_from([0.0, 0.5]), st.one_of(st.sampled_from([1.0, -1.0, 2.0]), wrong)),
    size=st.tuples(small, small),
)  # fmt: skip
def test_a_backbone_of_any_settings_is_refused_or_computes(kind, arch, size, **settings):
    try:
        model = kind(arch=arch, **settings)
    except Exception as error:
        return refused(error, arch=arch, **arch, **settings)
    model.init_weights()
    h, w = max(size[0], 1), max(size[1], 1)
    features = model.train()(torch.randn(2, 3, h * model.patch_size, w * model.patch_size))
    dims = arch['embed_dims']
    shapes = dict(
        raw=(2, 1 + h * w, dims), featmap=(2, dims, h, w), cls_token=(2, dims), avg_featmap=(2, dims)
    )  # fmt: skip
    shape = shapes[settings['out_type']]
    assert all(tuple(f.shape) == shape and f.isfinite().all() for f in features)


@examples(60)
@given(
    vocab_size=integers(2, 20), width=integers(4, 12), groups=integers(1, 4), blocks=integers(1, 2),
    width_in=integers(4, 8), likelihood=mostly(st.sampled_from(['logit_laplace', 'mse'])),
    beta=mostly(st.sampled_from([0.0, 1.0, 6])), temperature=mostly(st.sampled_from([1.0, 0.5, 2])),
    size=mostly(st.sampled_from([(8, 16), (24, 8)]), st.tuples(st.integers(0, 40), st.integers(0, 40))),
)  # fmt: skip
def test_a_tokenizer_of_any_settings_is_refused_or_learns(size, **settings):
    try:
        model = DiscreteVAE(**settings)
    except Exception as error:
        return refused(error, **settings)
    images = torch.rand(2, 3, *size)
    if 0 in size or size[0] % model.stride or size[1] % model.stride:
        with pytest.raises(ValueError, match=f'{size[0]}, {size[1]}'):
            model.loss(images)
        return 'refused'
    assert_learns(model, model.loss(images)['loss'])
    assert model.tokens(images).max() < settings['vocab_size']


@pytest.fixture(scope='module')
def teacher(tmp_path_factory) -> dict:
    backbone = dict(arch=ARCH, img_size=16, patch_size=4, out_type='featmap')
    path = tmp_path_factory.mktemp('teacher') / 'teacher.pth'
    torch.save(BEiT(**backbone).state_dict(), path)
    backbone['type'] = 'beit_mm.BEiT'
    return dict(type='beit_mm.Teacher', backbone=backbone, checkpoint=str(path))


@examples(60)
@given(
    vocab_size=integers(2, 9), code_dims=integers(1, 6), decoder_layers=integers(1, 2),
    beta=mostly(st.sampled_from([0.0, 1.0, 6])), decay=mostly(st.sampled_from([0.0, 0.99]), st.one_of(st.just(1.0), wrong)),
    channels=mostly(st.just(8), integers(1, 9)), mean=mostly(st.just([127.5] * 3)),
    std=mostly(st.just([127.5] * 3), st.one_of(wrong, st.just([1, 0, 1]))),
    size=mostly(st.sampled_from([(8, 16), (16, 16)]), st.tuples(st.integers(0, 40), st.integers(0, 40))),
)  # fmt: skip
def test_vq_kd_of_any_settings_is_refused_or_learns(teacher, channels, mean, std, size, **settings):
    of_teacher = dict(channels=channels, mean=mean, std=std)
    encoder = dict(arch=ARCH, img_size=16, patch_size=4)
    try:
        model = VQKD(encoder=encoder, teacher=teacher | of_teacher, **settings)
    except Exception as error:
        return refused(error, **settings, **of_teacher, **{'std[1]': 0})
    images = torch.rand(2, 3, *size)
    problems = {f'{size[0]}, {size[1]}': 0 in size or size[0] % 4 or size[1] % 4}
    problems['channels'] = channels != 8
    if any(problems.values()):
        with pytest.raises(ValueError) as refusal:
            model.loss(images)
        assert any(words in str(refusal.value) for words, is_given in problems.items() if is_given)
        return 'refused'
    model.init_weights()
    assert_learns(model, model.loss(images)['loss'])
    assert model.tokens(images).max() < settings['vocab_size']


@examples(60)
@given(
    in_channels=integers(1, 8), channels=integers(1, 8), num_stages=integers(1, 3), dropout_ratio=mostly(st.just(0.0)),
    upsample=mostly(st.sampled_from(['bilinear', 'deconv'])), size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)  # fmt: skip
def test_a_decoder_of_any_settings_is_refused_or_learns(size, **settings):
    try:
        head = SETRPUPHead(num_classes=3, norm_cfg=dict(type='BN'), **settings)
    except Exception as error:
        return refused(error, **settings)
    logits = head((torch.randn(2, settings['in_channels'], *size),))
    scale = 2 ** settings['num_stages']
    assert logits.shape == (2, 3, size[0] * scale, size[1] * scale)
    assert_learns(head, logits.square().mean())


@examples(80)
@given(
    in_channels=integers(1, 9), out_channels=integers(1, 9), positions=st.integers(0, 6), seed=st.integers(0, 99)
)  # fmt: skip
def test_a_head_is_refused_or_its_loss_is_finite_whatever_is_masked(positions, seed, **settings):
    try:
        head = MIMHead(**settings)
    except Exception as error:
        return refused(error, **settings)
    torch.manual_seed(seed)
    features = torch.randn(2, positions, settings['in_channels'])
    target = torch.randint(settings['out_channels'], (2, positions))
    valid = torch.rand(2, positions) < 0.4
    losses = head.loss(features, target, valid, dict(accuracy=valid))
    assert_learns(head, losses['loss'])
    assert 0 <= losses['accuracy'] <= 100.001
    assert (losses['loss'] == 0) == (not valid.any() or settings['out_channels'] == 1)


@examples(60)
@given(
    patch_size=integers(1, 5), recover=RECOVER, grid=st.tuples(st.integers(1, 4), st.integers(1, 4))
)
def test_pixels_are_refused_or_normalized(grid, **settings):
    try:
        target = PixelTarget(**settings)
    except Exception as error:
        return refused(error, **settings)
    sides = [side * settings['patch_size'] for side in grid]
    patches = target(dict(patch_view=torch.randn(2, 3, *sides)))
    assert patches.shape == (2, *grid, target.channels) and patches.isfinite().all()
    assert patches.mean(-1).abs().max() < 1e-4 and (patches.var(-1) - 1).abs().max() < 0.1


@pytest.fixture(scope='module')
def tokenizer_file(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp('tokenizer') / 'good.pth'
    torch.save(DiscreteVAE(**VAE).state_dict(), path)
    return str(path)


@examples(60)
@given(recover=RECOVER, checkpoint=mostly(st.just('good'), st.none()))
def test_a_token_target_is_refused_or_gives_ids(tokenizer_file, checkpoint, **settings):
    checkpoint = tokenizer_file if checkpoint == 'good' else checkpoint
    try:
        ids = TokenTarget(TOKENIZER, checkpoint, **settings)(
            dict(token_view=torch.rand(2, 3, 8, 12))
        )
    except FileNotFoundError as error:
        assert checkpoint is None or checkpoint in str(error)
        return 'refused'
    except Exception as error:
        return refused(error, checkpoint=checkpoint, **settings)
    assert ids.shape == (2, 2, 3) and ids.dtype == torch.int64 and 0 <= ids.min() <= ids.max() < 5


@examples(60)
@given(
    patch=mostly(st.just(4), st.sampled_from([2, 8])), view=mostly(st.just(16), st.sampled_from([8, 12, 15])),
    ids=mostly(st.just(4), st.sampled_from([2, 5])), recover=st.sampled_from(['masked', 'all']),
    out_channels=mostly(st.just(5), st.sampled_from([4, 7])), num_masked=mostly(st.integers(1, 16), st.one_of(st.just(40), wrong)),
    masked=mostly(st.integers(0, 16), st.none()),
)  # fmt: skip
def test_pre_training_of_any_settings_is_refused_or_learns(
    patch, view, ids, recover, out_channels, num_masked, masked
):
    """An error names the width of the head, the grids, the number of masked patches, or the mask."""
    target = dict(type='beit_mm.TokenTarget', tokenizer=TOKENIZER, recover=recover)
    backbone = dict(type='beit_mm.BEiT', arch=ARCH, img_size=16, patch_size=patch, mask_token=True)
    head = dict(type='beit_mm.MIMHead', in_channels=8, out_channels=out_channels)
    try:
        model = BEiTPretrainer(backbone, target, head, num_masked)
    except ValueError as error:
        if out_channels != 5 and 'out_channels=5' in str(error):
            return 'refused'
        return refused(error, num_masked=num_masked)
    grid = view // patch
    inputs = dict(
        patch_view=torch.randn(2, 3, view, view), token_ids=torch.randint(5, (2, ids, ids))
    )
    if masked is not None:
        inputs['mask'] = (torch.rand(2, grid * grid).argsort(1) < masked).view(2, grid, grid)
    try:
        losses = model.loss(inputs)
    except ValueError as error:
        too_many = num_masked > grid**2 or min(masked or 0, grid**2) > num_masked
        reasons = {
            'multiples of': view % patch,
            'token grid': ids != grid,
            'needs a mask': masked is None and recover == 'masked',
            'num_masked': recover == 'masked' and too_many,
        }
        assert any(reason and words in str(error) for words, reason in reasons.items()), error
        return 'refused'
    loss = losses['loss'] + 0 * model.backbone.mask_token.sum()  # unused without a mask
    assert_learns(model, loss)
    assert len(model(inputs, mode='predict')) == 2


@examples(60)
@given(
    mean=mostly(st.sampled_from([(123.675, 116.28, 103.53), [127.5] * 3])),
    std=mostly(st.sampled_from([(58.395, 57.12, 57.375), [127.5] * 3]), st.one_of(wrong, st.just([1, 0, 1]))),
)  # fmt: skip
def test_a_preprocessor_is_refused_or_normalizes(mean, std):
    try:
        preprocessor = MIMDataPreprocessor(mean, std)
    except Exception as error:
        return refused(error, mean=mean, std=std, **{'std[1]': 0})
    view = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
    out = preprocessor(dict(inputs=dict(patch_view=view)))['inputs']['patch_view']
    back = out * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    assert (back - view).abs().max() < 1e-3

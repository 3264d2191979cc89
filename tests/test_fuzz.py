"""Random settings, sizes, weights and files: the right result or an error that is documented, nothing else.

Examples are drawn from a fixed seed; BEIT_MM_FUZZ_TIMES=20 draws twenty times as many.
"""

import math
import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from beit_mm.checkpoint import load, load_backbone
from beit_mm.checkpoint.origins import NAMES, from_ours
from beit_mm.data.blockwise_mask import BlockwiseMask, RandomMask
from beit_mm.data.two_views import TwoViews
from beit_mm.models import BEiT, DiscreteVAE, MIMHead
from beit_mm.models.pretrainer import masked_places
from beit_mm.models.relative_position import relative_position_index, resize_bias_table, table_rows

settings.register_profile(
    'fixed', derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile('fixed')
TIMES = int(os.environ.get('BEIT_MM_FUZZ_TIMES', 1))
ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
small, any_int = st.integers(0, 6), st.integers(-3, 40)


def examples(number: int):
    return settings(max_examples=number * TIMES)


# -- settings ------------------------------------------------------------------------------------------------------------


def mostly(good: st.SearchStrategy, bad: st.SearchStrategy) -> st.SearchStrategy:
    return st.one_of(*[good] * 9, bad)


@examples(300)
@given(
    arch=st.fixed_dictionaries(
        dict(
            embed_dims=mostly(st.sampled_from([4, 12, 24]), any_int),
            num_layers=mostly(st.integers(1, 3), any_int),
            num_heads=mostly(st.sampled_from([1, 2, 4]), any_int),
            feedforward_channels=mostly(st.integers(1, 20), any_int),
        )
    ),
    img_size=mostly(st.sampled_from([8, 16, (8, 24)]), st.one_of(any_int, st.tuples(any_int, any_int))),
    patch_size=mostly(st.sampled_from([2, 4, 8]), st.integers(-1, 9)),
    rel_pos_bias=mostly(st.sampled_from([None, 'shared', 'per_layer']), st.just('other')),
    abs_pos_embed=st.booleans(),
    layer_scale=st.sampled_from([None, 0.1, 0.0]),
    out_indices=mostly(st.just(-1), st.one_of(st.integers(-4, 4), st.lists(st.integers(-4, 4), max_size=4))),
    out_type=mostly(st.sampled_from(['raw', 'featmap', 'cls_token', 'avg_featmap']), st.just('other')),
    frozen_stages=mostly(st.sampled_from([-1, 0, 1]), st.integers(-2, 4)),
    drop_path_rate=mostly(st.sampled_from([0.0, 0.5]), st.sampled_from([1.0, -1.0, 2.0])),
    other=st.tuples(small, small),
)
def test_a_backbone_of_any_settings_is_refused_or_computes(arch, other, **how):
    try:
        model = BEiT(arch=arch, **how)
    except (ValueError, TypeError) as error:
        assert str(error)
        return
    model.init_weights()
    size = tuple(max(n, 1) * model.patch_size for n in other)
    features = model.train()(torch.randn(2, 3, *size))
    grid = size[0] // model.patch_size, size[1] // model.patch_size
    dims = arch['embed_dims']
    shape = dict(
        raw=(2, 1 + grid[0] * grid[1], dims), featmap=(2, dims, *grid), cls_token=(2, dims), avg_featmap=(2, dims)
    )[how['out_type']]
    assert all(tuple(f.shape) == shape and f.isfinite().all() for f in features)


@examples(60)
@given(
    vocab_size=mostly(st.integers(2, 20), st.integers(-1, 1)),
    width=mostly(st.integers(4, 12), st.integers(-1, 3)),
    groups=mostly(st.integers(1, 4), st.integers(-1, 0)),
    blocks=mostly(st.integers(1, 2), st.integers(-1, 0)),
    width_in=mostly(st.integers(4, 8), st.integers(-1, 3)),
    likelihood=mostly(st.sampled_from(['logit_laplace', 'mse', 'l1']), st.just('other')),
    size=mostly(st.sampled_from([(8, 16), (24, 8)]), st.tuples(st.integers(0, 40), st.integers(0, 40))),
)
def test_a_tokenizer_of_any_settings_is_refused_or_computes(size, **how):
    try:
        model = DiscreteVAE(**how)
        losses = model.loss(torch.rand(2, 3, *size))
    except (ValueError, TypeError) as error:
        assert str(error)
        return
    assert losses['loss'].isfinite()
    assert model.tokens(torch.rand(1, 3, *size)).max() < how['vocab_size']


@examples(300)
@given(
    kind=st.sampled_from([BlockwiseMask, RandomMask]),
    grid=mostly(st.one_of(st.integers(2, 16), st.tuples(*[st.integers(2, 16)] * 2)), st.integers(-2, 1)),
    budget=mostly(st.integers(1, 100), st.integers(-2, 270)),
    min_block=mostly(st.integers(1, 16), st.integers(-2, 40)),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_mask_of_any_settings_is_refused_or_ends_within_its_budget(kind, grid, budget, min_block, seed):
    how = dict(min_block=min_block) if kind is BlockwiseMask else {}
    try:
        transform = kind(grid=grid, budget=budget, **how)
    except ValueError as error:
        assert str(error)
        return
    np.random.seed(seed)
    mask = transform.transform({})['mask']
    assert mask.shape == ((grid, grid) if isinstance(grid, int) else grid) and mask.dtype == bool
    assert mask.sum() == budget if kind is RandomMask else mask.sum() <= budget
    index, valid = masked_places(torch.from_numpy(mask)[None], budget)
    assert index.shape == (1, budget) and valid.sum() == mask.sum()


@examples(60)
@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)), views=st.tuples(st.integers(1, 40), st.integers(0, 40)),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_an_image_of_any_size_has_two_views(size, views, seed):
    np.random.seed(seed)
    image = np.random.randint(0, 256, (*size, 3), np.uint8)
    out = TwoViews(size=views[0], token_size=views[1] or None)(dict(img=image))
    assert out['patch_view'].shape == (views[0], views[0], 3)
    assert ('token_view' in out) is bool(views[1])


@examples(80)
@given(source=st.tuples(*[st.integers(1, 9)] * 2), target=st.tuples(*[st.integers(1, 9)] * 2), rows=st.integers(0, 300))
def test_a_table_is_resized_to_any_grid_or_its_rows_are_wrong(source, target, rows):
    table = torch.randn(table_rows(source), 2, dtype=torch.float64)
    resized = resize_bias_table(table, source, target)
    assert len(resized) == table_rows(target) and resized.isfinite().all()
    assert relative_position_index(target).max() == table_rows(target) - 1
    assume(rows != table_rows(source))
    with pytest.raises(ValueError, match='has .* rows'):
        resize_bias_table(torch.zeros(rows, 2), source, target)


@examples(60)
@given(places=st.integers(0, 6), batch=st.integers(1, 3), seed=st.integers(0, 99))
def test_a_loss_is_finite_whatever_is_masked(places, batch, seed):
    torch.manual_seed(seed)
    head = MIMHead(4, 5)
    features = torch.randn(batch, places, 4, requires_grad=True)
    target, valid = torch.randint(5, (batch, places)), torch.rand(batch, places) < 0.4
    loss = head.loss(features, target, valid)['loss']
    loss.backward()
    assert loss.isfinite() and features.grad.isfinite().all()
    assert (loss == 0) == (not valid.any())


# -- weights -------------------------------------------------------------------------------------------------------------

MIM = dict(arch=ARCH, img_size=32, patch_size=8, rel_pos_bias='shared', layer_scale=0.1, mask_token=True)
CLASSIFIER = dict(
    arch=ARCH, img_size=32, patch_size=8, rel_pos_bias='per_layer', layer_scale=0.1, out_type='avg_featmap'
)


def removed(state: dict, key: str) -> None:
    del state[key]


def renamed(state: dict, key: str) -> None:
    state[key + '_'] = state.pop(key)


def reshaped(state: dict, key: str) -> None:
    state[key] = torch.zeros(*state[key].shape, 2)


def without_numbers(state: dict, key: str) -> None:
    state[key] = torch.full_like(state[key], math.nan)


@examples(150)
@given(data=st.data())
def test_broken_weights_are_an_error_that_names_the_key_and_nothing_is_loaded(data, tmp_path_factory):
    source, target = BEiT(**MIM), BEiT(**CLASSIFIER)
    state = {f'backbone.{k}': torch.randn_like(v) for k, v in source.state_dict().items()}
    for key in ('backbone.mask_token', 'backbone.norm.weight', 'backbone.norm.bias'):
        del state[key]  # left out on purpose, whatever they hold
    written = from_ours(state, data.draw(st.sampled_from(['beit_mm', 'unilm', 'hf', 'mmpretrain'])))
    key = data.draw(st.sampled_from([k for k in written if not k.endswith('relative_position_index')]))
    damage = data.draw(st.sampled_from([removed, renamed, reshaped, without_numbers]))
    damage(written, key)
    path = tmp_path_factory.mktemp('fuzz') / 'a.pth'
    torch.save(written, path)
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(ValueError) as raised:
        load_backbone(target, str(path))
    assert str(path) in str(raised.value) or 'no BEiT' in str(raised.value)
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())


@examples(200)
@given(data=st.data())
def test_a_cut_file_is_an_error(data, tmp_path_factory, written_files):
    content = data.draw(st.sampled_from(written_files))
    path = tmp_path_factory.mktemp('cut') / 'a.pth'
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(ValueError, match=r'a\.pth'):
        load(str(path))


@examples(300)
@given(data=st.data())
def test_flipped_bytes_are_an_error_or_change_nothing(data, tmp_path_factory, written_files):
    """Of a file of torch's; a safetensors file has no checksum, so there only its header is tried."""
    which = data.draw(st.integers(0, len(written_files) - 1))
    content = bytearray(written_files[which])
    end = len(content) if which < 2 else int.from_bytes(content[:8], 'little') + 8
    for place in data.draw(st.lists(st.integers(0, end - 1), min_size=1, max_size=3)):
        content[place] ^= data.draw(st.integers(1, 255))
    good, path = tmp_path_factory.mktemp('flip') / 'good.pth', tmp_path_factory.mktemp('flip') / 'a.pth'
    good.write_bytes(written_files[which])
    path.write_bytes(content)
    expected = load(str(good))[0]
    try:
        found = load(str(path))[0]
    except ValueError as error:
        assert str(error)
        return
    if which < 2:
        assert found.keys() == expected.keys() and all(torch.equal(v, expected[k]) for k, v in found.items())


@pytest.fixture(scope='session')
def written_files(tmp_path_factory) -> list[bytes]:
    """The same weights as torch writes them, as mmengine wraps them, and as safetensors."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    state = {f'backbone.{k}': torch.randn_like(v) for k, v in BEiT(**MIM).state_dict().items()}
    folder = tmp_path_factory.mktemp('files')
    torch.save(state, folder / '0')
    torch.save(dict(state_dict=state, meta=dict(epoch=3)), folder / '1')
    save_file(state, folder / '2')
    return [(folder / name).read_bytes() for name in '012']


def test_every_origin_has_names():
    assert set(NAMES) == {'beit_mm', 'unilm', 'timm', 'hf', 'mmpretrain', 'mmseg'}

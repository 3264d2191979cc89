"""Hooks, metrics and the optimizer's constructor of any settings: refused by name, or they do what they say."""

import math

import pytest
import torch
from fuzz.chance import examples, mostly, refused
from hypothesis import given
from hypothesis import strategies as st
from mmengine.optim import build_optim_wrapper
from torch import nn
from trials import toy

from beit_mm.checkpoint.files import read_file
from beit_mm.checkpoint.integrity import find_newest
from beit_mm.data.seeded import seeded
from beit_mm.engine import (
    Anneal,
    AtomicCheckpointHook,
    CompileBlocks,
    InitCodebook,
    MIMMetric,
    Probe,
    Throughput,
    TokenizerMetric,
    Watchdog,
    launch,
)  # fmt: skip
from beit_mm.engine.hooks.anneal import cosine
from beit_mm.engine.hooks.probe import MEASURES
from beit_mm.models import BEiT, DiscreteVAE

FUZZED = {
    'Anneal', 'ConvertCheckpoint', 'AtomicCheckpointHook', 'CPUAmpOptimWrapper', 'CachedTokens', 'CompileBlocks', 'DeferredLog',
    'ExactResume', 'InitCodebook', 'KeyedRandomness', 'LayerDecayConstructor', 'MIMMetric', 'Probe', 'StopOnSignal',
    'Throughput', 'TokenizerMetric', 'Watchdog',
}  # fmt: skip
ARCH = dict(embed_dims=8, num_layers=3, num_heads=2, feedforward_channels=8)
number = st.floats(-10, 10)


@examples(60)
@given(
    attribute=mostly(st.just('beta')), start=mostly(number), end=mostly(number), iters=mostly(st.integers(1, 50)),
    iteration=st.integers(0, 100),
)  # fmt: skip
def test_annealing_is_refused_or_stays_between_its_ends(iteration, **how):
    try:
        hook = Anneal(**how)
    except Exception as error:
        return refused(error, **how)
    value = cosine(hook.start, hook.end, hook.iters, iteration)
    low, high = sorted((hook.start, hook.end))
    assert low - 1e-9 <= value <= high + 1e-9
    assert iteration < hook.iters or math.isclose(value, hook.end, abs_tol=1e-9)


@examples(60)
@given(
    patience=mostly(st.integers(1, 9)), interval=mostly(st.one_of(st.none(), st.integers(1, 9))),
    checksum_interval=mostly(st.integers(1, 9)),
)  # fmt: skip
def test_a_watchdog_of_any_settings_is_refused_or_has_them(**how):
    try:
        hook = Watchdog(**how)
    except Exception as error:
        return refused(error, **how)
    assert {name: getattr(hook, name) for name in how} == how


@examples(40)
@given(
    num_images=mostly(st.integers(1, 9)), sharpness=mostly(st.floats(0.1, 9)), vocab_size=st.integers(2, 9),
    alike=st.booleans(), number=st.integers(1, 3),
)  # fmt: skip
def test_a_codebook_is_refused_or_starts_from_the_data(
    num_images, sharpness, vocab_size, alike, number
):
    try:
        hook = InitCodebook(num_images, sharpness)
    except Exception as error:
        return refused(error, num_images=num_images, sharpness=sharpness)
    model = DiscreteVAE(vocab_size=vocab_size, width=4, groups=2, blocks=1, width_in=4)
    views = torch.full((number, 3, 4, 4), 0.5) if alike else torch.rand(number, 3, 4, 4)
    try:
        model.init_codebook(views, hook.sharpness)
    except ValueError as error:
        assert 'too few different ones' in str(error)
        return 'refused'
    assert (
        all(p.isfinite().all() for p in model.parameters())
        and model.tokens(views).unique().numel() > 1
    )


@examples(60)
@given(key=st.lists(st.integers(0, 2**40), min_size=1, max_size=4), other=st.integers(0, 2**40))
def test_randomness_is_a_function_of_its_key(key, other):
    def draw(*key: int) -> list:
        with seeded(*key):
            return torch.rand(3).tolist()

    before = torch.get_rng_state()
    assert draw(*key) == draw(*key) and torch.equal(before, torch.get_rng_state())
    assert (draw(*key) == draw(*key[:-1], other)) is (other == key[-1])


@examples(60)
@given(
    rate=mostly(st.floats(0.1, 1)), head_lr_mult=mostly(st.floats(0.1, 10)), decay_cls_token=st.booleans(),
    lr=mostly(st.floats(1e-6, 1), st.none()), weight_decay=mostly(st.floats(0, 1), st.none()),
    unknown=mostly(st.just({}), st.just(dict(layer_decay='layer_decay'))), frozen_stages=st.integers(-1, 3),
    positions=st.sampled_from([None, 'shared', 'per_layer']),
)  # fmt: skip
def test_layer_decay_is_refused_or_gives_each_parameter_its_rate_once(
    rate, head_lr_mult, decay_cls_token, lr, weight_decay, unknown, frozen_stages, positions
):
    model = nn.Module()
    model.backbone = BEiT(
        ARCH, img_size=32, rel_pos_bias=positions, abs_pos_embed=True, frozen_stages=frozen_stages
    )
    model.head = nn.Linear(8, 2)
    paramwise = dict(
        layer_decay_rate=rate, head_lr_mult=head_lr_mult, decay_cls_token=decay_cls_token, **unknown
    )
    optimizer = dict(type='AdamW', lr=lr, weight_decay=weight_decay)
    how = dict(
        optimizer=optimizer, constructor='beit_mm.LayerDecayConstructor', paramwise_cfg=paramwise
    )
    try:
        groups = build_optim_wrapper(model, how).optimizer.param_groups
    except Exception as error:
        return refused(error, **paramwise, **optimizer)
    given_to = {id(p): group for group in groups for p in group['params']}
    assert given_to.keys() == {id(p) for p in model.parameters() if p.requires_grad}
    assert sum(len(group['params']) for group in groups) == len(given_to)
    for name, p in model.named_parameters():
        if p.requires_grad:
            layer, layers = (
                model.backbone.get_layer_depth(name, 'backbone.') if 'backbone' in name else (0, 0)
            )
            expected = lr * rate ** (layers - 1 - layer) if layers else lr * head_lr_mult
            assert math.isclose(given_to[id(p)]['lr'], expected)
            assert given_to[id(p)]['weight_decay'] in (0, weight_decay)


@examples(40)
@given(vocab_size=mostly(st.integers(2, 300)), images=st.integers(1, 4), tokens=st.integers(1, 6))
def test_a_metric_of_tokens_is_refused_or_finite(vocab_size, images, tokens):
    try:
        metric = TokenizerMetric(vocab_size)
    except Exception as error:
        return refused(error, vocab_size=vocab_size)
    one = dict(
        psnr=torch.rand([]),
        psnr_mean_color=torch.rand([]),
        log_likelihood=-torch.rand([]),
        kl=torch.rand([]),
    )
    samples = [
        dict(
            ids=torch.randint(vocab_size, (tokens, tokens)),
            reconstruction=torch.rand(3, 4, 4),
            **one,
        )
        for _ in range(images)
    ]
    metric.process({}, samples)
    found = metric.evaluate(images)
    assert all(math.isfinite(value) for value in found.values())
    assert 1 <= found['tokenizer/codes_used'] <= min(vocab_size, images * tokens**2)


@examples(40)
@given(
    images=st.integers(1, 4), places=st.integers(1, 6), pixels=st.booleans(), share=st.sampled_from([0.0, 0.3, 1.0]),
    recover_all=st.booleans(),
)  # fmt: skip
def test_a_metric_of_masked_modeling_is_finite_or_says_that_nothing_is_hidden(
    images, places, pixels, share, recover_all
):
    metric, samples = MIMMetric(), []
    for _ in range(images):
        hidden = torch.rand(places) < share
        where = dict(hidden=hidden, valid=hidden | recover_all)
        if pixels:
            samples.append(dict(mse=torch.rand(places), **where))
        else:
            ids = torch.randint(9, (2, places))
            samples.append(
                dict(target=ids[0], prediction=ids[1], log_p_tokens=-torch.rand(places), **where)
            )
    hidden = any(s['valid'].any() for s in samples)
    metric.process({}, samples)
    try:
        found = metric.evaluate(images)
    except ValueError as error:
        assert not hidden and 'nothing is hidden' in str(error)
        return 'refused'
    assert hidden and all(math.isfinite(value) for value in found.values())


@examples(60)
@given(
    interval=mostly(st.none() | st.integers(1, 9)), by_epoch=st.booleans(), num_images=mostly(st.integers(2, 9)),
    dataloader=mostly(st.sampled_from(['val_dataloader', {}]), st.sampled_from([None, 3])),
    measures=mostly(st.none() | st.lists(st.sampled_from(MEASURES)), st.sampled_from(['knn', ['knn'], 3, [[]]])),
)  # fmt: skip
def test_a_probe_of_any_settings_is_refused_or_keeps_them(**how):
    try:
        probe = Probe(**how)
    except Exception as error:
        return refused(error, **how)
    assert all(getattr(probe, name) == value for name, value in how.items())


@examples(30)
@given(
    gflop=mostly(st.none() | st.floats(1e-3, 1e3)), peak=mostly(st.floats(1e-3, 1e3)), backend=mostly(st.just('eager')),
)  # fmt: skip
def test_hooks_of_speed_are_refused_or_keep_their_settings(gflop, peak, backend):
    try:
        hooks = [Throughput(gflop, peak), CompileBlocks(backend)]
    except Exception as error:
        return refused(error, gflop_per_image=gflop, peak_tflops=peak, backend=backend)
    assert [hooks[0].gflop_per_image, hooks[0].peak_tflops, hooks[1].backend] == [
        gflop,
        peak,
        backend,
    ]


# -- a whole run -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['file_client_args', 'backend_args'])
def test_a_checkpoint_hook_is_for_mounted_folders(name):
    with pytest.raises(ValueError, match=name):
        AtomicCheckpointHook(**{name: dict(backend='petrel')})


@examples(5)
@given(
    iters=st.integers(1, 4), interval=st.integers(1, 3), keep=st.sampled_from([-1, 1, 2]), patience=st.integers(1, 3),
    val=st.integers(1, 5), epochs=st.booleans(), amp=st.booleans(), more=st.integers(0, 3), workers=st.just(0),
)  # fmt: skip
def test_a_run_of_any_settings_ends_and_goes_on(tmp_path_factory, patience, keep, amp, more, **how):
    """With all hooks that tools/train.py adds: StopOnSignal, DeferredLog, CachedTokens …, and those of speed."""
    toy.light()
    work = tmp_path_factory.mktemp('run')
    if how['epochs']:
        how['iters'] *= 4  # an epoch has four

    def train(iters: int) -> None:
        cfg = toy.config(work, **how | dict(iters=iters), experiment_name=f'{work.name}_{iters}')
        cfg.default_hooks.checkpoint.max_keep_ckpts = keep
        cfg.custom_hooks = [dict(type='Watchdog', patience=patience), dict(type='StopOnSignal')]
        cfg.custom_hooks += [
            dict(type='Throughput', gflop_per_image=1.0, peak_tflops=1.0),
            dict(type='CompileBlocks', backend='eager', cpu=True),
        ]
        cfg.optim_wrapper.type = 'CPUAmpOptimWrapper' if amp else 'OptimWrapper'
        runner = launch.build_runner(cfg)
        runner.train()
        assert runner.iter == iters and all(p.isfinite().all() for p in runner.model.parameters())

    train(how['iters'])
    train(how['iters'] + (4 if how['epochs'] else 1) * more)
    names = r'(epoch|iter)_\d+\.pth'
    path, passed = find_newest(work, names)
    assert (
        path
        and not passed
        and read_file(path)['meta']['iter'] == how['iters'] + (4 if how['epochs'] else 1) * more
    )
    assert keep < 0 or len([p for p in work.glob('*.pth') if not p.name.startswith('best')]) <= keep
    assert not list(work.glob('.*.tmp'))

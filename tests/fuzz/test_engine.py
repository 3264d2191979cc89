"""Settings of hooks, metrics and the optimizer: wrong ones are refused by name, others work."""

import math

import pytest
import torch
from fuzz.chance import examples, mostly, refused, wrong
from hypothesis import given
from hypothesis import strategies as st
from mmengine.optim import build_optim_wrapper
from torch import nn
from trials import toy

from beit_mm.checkpoint.files import read_file
from beit_mm.checkpoint.integrity import find_newest
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
)
from beit_mm.engine.hooks.anneal import cosine
from beit_mm.models import BEiT

FUZZED = {
    'Anneal', 'AtomicCheckpointHook', 'CPUAmpOptimWrapper', 'CachedTokens', 'CompileBlocks',
    'ConvertCheckpoint', 'DeferredLog', 'ExactResume', 'InitCodebook', 'KeyedRandomness',
    'LayerDecayConstructor', 'MIMMetric', 'Probe', 'StopOnSignal', 'Throughput',
    'TokenizerMetric', 'Watchdog',
}  # fmt: skip
ARCH = dict(embed_dims=8, num_layers=3, num_heads=2, feedforward_channels=8)
COUNT, POSITIVE, OPTIONAL = st.integers(1, 9), st.floats(1e-3, 1e3), st.none()
SETTINGS = {  # name → good values
    CompileBlocks: dict(backend=st.just('eager')),
    InitCodebook: dict(num_images=COUNT, sharpness=OPTIONAL | POSITIVE),
    Probe: dict(interval=OPTIONAL | COUNT, num_images=st.integers(2, 9)),
    Throughput: dict(gflop_per_image=OPTIONAL | POSITIVE, peak_tflops=OPTIONAL | POSITIVE),
    TokenizerMetric: dict(vocab_size=st.integers(2, 300)),
    Watchdog: dict(patience=COUNT, interval=OPTIONAL | COUNT, checksum_interval=COUNT),
}
NUMBERS = {'sharpness', 'gflop_per_image', 'peak_tflops'}
OPTIONALS = {'interval', *NUMBERS}


def is_valid(name: str, value: object) -> bool:
    """Return whether the documentation of the classes allows a value."""
    if name == 'backend':
        return value == 'eager'
    if value is None:
        return name in OPTIONALS
    kinds = (int, float) if name in NUMBERS else (int,)
    return type(value) in kinds and math.isfinite(value) and value > 0


@pytest.mark.parametrize('kind', SETTINGS, ids=lambda kind: kind.__name__)
@examples(150)
@given(data=st.data())
def test_wrong_settings_are_refused_by_name_and_others_are_kept(kind, data):
    """At most one setting is wrong, so that no other check can refuse it."""
    settings = {name: data.draw(good, name) for name, good in SETTINGS[kind].items()}
    if name := data.draw(st.none() | st.sampled_from(sorted(settings)), 'other'):
        settings[name] = data.draw(wrong, name)
    faults = {name: value for name, value in settings.items() if not is_valid(name, value)}
    try:
        made = kind(**settings)
    except Exception as error:
        return refused(error, **faults)
    assert not faults
    assert {name: getattr(made, name) for name in settings} == settings


@examples(60)
@given(
    start=mostly(st.floats(-10, 10)),
    end=mostly(st.floats(-10, 10)),
    iters=mostly(st.integers(1, 50)),
    iteration=st.integers(0, 100),
)
def test_annealing_stays_between_its_ends(iteration, **settings):
    try:
        hook = Anneal('beta', **settings)
    except Exception as error:
        return refused(error, **settings)
    iters = hook.iters or 50  # without it the length of the run
    value = cosine(hook.start, hook.end, iters, iteration)
    low, high = sorted((hook.start, hook.end))
    assert low - 1e-9 <= value <= high + 1e-9
    assert iteration < iters or math.isclose(value, hook.end, abs_tol=1e-9)


@examples(60)
@given(
    layer_decay_rate=mostly(st.floats(0.1, 1)),
    head_lr_mult=mostly(st.floats(0.1, 10)),
    decay_cls_token=st.booleans(),
    lr=mostly(st.floats(1e-6, 1), st.none()),
    weight_decay=mostly(st.floats(0, 1), st.none()),
    unknown=mostly(st.just({}), st.just(dict(layer_decay='layer_decay'))),
    frozen_stages=st.integers(-1, 3),
    positions=st.sampled_from([None, 'shared', 'per_layer']),
)
def test_layer_decay_gives_each_trained_parameter_its_rate_once(
    lr, weight_decay, unknown, frozen_stages, positions, **paramwise
):
    model = nn.Module()
    model.backbone = BEiT(
        ARCH, img_size=32, rel_pos_bias=positions, abs_pos_embed=True, frozen_stages=frozen_stages
    )
    model.head = nn.Linear(8, 2)
    optimizer = dict(type='AdamW', lr=lr, weight_decay=weight_decay)
    cfg = dict(
        optimizer=optimizer,
        constructor='beit_mm.LayerDecayConstructor',
        paramwise_cfg=paramwise | unknown,
    )
    try:
        groups = build_optim_wrapper(model, cfg).optimizer.param_groups
    except Exception as error:
        return refused(error, **paramwise, **unknown, **optimizer)
    group_of = {id(p): group for group in groups for p in group['params']}
    assert group_of.keys() == {id(p) for p in model.parameters() if p.requires_grad}
    assert sum(len(group['params']) for group in groups) == len(group_of)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = paramwise['head_lr_mult']
        if name.startswith('backbone.'):
            layer, layers = model.backbone.get_layer_depth(name, 'backbone.')
            scale = paramwise['layer_decay_rate'] ** (layers - 1 - layer)
        assert math.isclose(group_of[id(parameter)]['lr'], lr * scale)
        assert group_of[id(parameter)]['weight_decay'] in (0, weight_decay)


@examples(40)
@given(
    num_images=st.integers(1, 4),
    num_patches=st.integers(1, 6),
    pixels=st.booleans(),
    masked=st.sampled_from([0.0, 0.3, 1.0]),
    recover_all=st.booleans(),
)
def test_metrics_of_pre_training_are_finite_or_nothing_is_masked(
    num_images, num_patches, pixels, masked, recover_all
):
    samples = []
    for _ in range(num_images):
        hidden = torch.rand(num_patches) < masked
        sample = dict(hidden=hidden, valid=hidden | recover_all)
        if pixels:
            sample['mse'] = torch.rand(num_patches)
        else:
            sample['target'], sample['prediction'] = torch.randint(9, (2, num_patches))
            sample['log_p_tokens'] = -torch.rand(num_patches)
        samples.append(sample)
    predicted = any(sample['valid'].any() for sample in samples)
    metric = MIMMetric()
    metric.process({}, samples)
    try:
        found = metric.evaluate(num_images)
    except ValueError as error:
        assert not predicted and 'no patch is masked' in str(error)
        return 'refused'
    assert predicted and all(math.isfinite(value) for value in found.values())


# -- complete runs


@pytest.mark.parametrize('name', ['file_client_args', 'backend_args'])
def test_a_checkpoint_hook_is_for_mounted_folders(name):
    with pytest.raises(ValueError, match=name):
        AtomicCheckpointHook(**{name: dict(backend='petrel')})


@examples(5)
@given(
    iters=st.integers(1, 4), more=st.integers(0, 3), interval=st.integers(1, 3),
    keep=st.sampled_from([-1, 1, 2]), patience=st.integers(1, 3), val=st.integers(1, 5),
    epochs=st.booleans(), amp=st.booleans(),
)  # fmt: skip
def test_a_run_of_any_settings_ends_and_continues(
    tmp_path_factory, iters, more, keep, patience, amp, **settings
):
    """The runs have all hooks that tools/train.py adds, and those of speed."""
    toy.light()
    work = tmp_path_factory.mktemp('run')
    scale = 4 if settings['epochs'] else 1  # an epoch has four iterations
    ends = iters * scale, (iters + more) * scale

    for end in ends:
        name = f'{work.name}_{end}'
        cfg = toy.config(work, iters=end, experiment_name=name, workers=0, **settings)
        cfg.default_hooks.checkpoint.max_keep_ckpts = keep
        cfg.custom_hooks = [
            dict(type='Watchdog', patience=patience),
            dict(type='StopOnSignal'),
            dict(type='Throughput', gflop_per_image=1.0, peak_tflops=1.0),
            dict(type='CompileBlocks', backend='eager', cpu=True),
        ]
        cfg.optim_wrapper.type = 'CPUAmpOptimWrapper' if amp else 'OptimWrapper'
        runner = launch.build_runner(cfg)
        runner.train()
        assert runner.iter == end
        assert all(parameter.isfinite().all() for parameter in runner.model.parameters())

    kept = [path for path in work.glob('*.pth') if not path.name.startswith('best')]
    path, damaged = find_newest(kept)
    assert path and not damaged and read_file(path)['meta']['iter'] == ends[-1]
    assert keep < 0 or len(kept) <= keep
    assert not list(work.glob('.*.tmp'))

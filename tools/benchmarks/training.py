"""Pre-training steps of BEiT-B at 224 px: tokens, forward, backward, clipping and AdamW.

Ours is what a config of configs/pretrain builds, with the wrappers and the log of tools/train.py.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import Tensor

from beit_mm.data.blockwise_mask import BlockwiseMask
from beit_mm.engine.cpu import adapt_to_cpu
from beit_mm.engine.hooks.compile_blocks import compile_blocks
from beit_mm.engine.hooks.deferred_log import defer
from beit_mm.engine.nonfinite_steps import skip_nonfinite_steps
from beit_mm.models import BEiTPretrainer
from beit_mm.registry import MODELS

from . import other_training
from .timing import DEVICE, TOY, BenchmarkSettings, Turn, dtypes, peak_memory, row, take_turns

ROOT = Path(__file__).parents[2]
PRETRAINING_CONFIG = ROOT / 'configs/pretrain/beit_beit-base-p16_8xb256-amp-coslr-800e_in1k.py'
# GFLOP per image, all patches counted: encoder 35 forward and 70 backward, head 3, tokenizer 52
GFLOP_TOKENIZER, GFLOP_CACHED = 52, 108
TOY_TOKENIZER = dict(vocab_size=32, width=8, blocks=1, width_in=8)
STEPS_PER_TURN = 5 if DEVICE == 'cuda' else 1  # a GPU starts a step before the host has logged


def make_batch(size: int, vocab_size: int) -> dict[str, Tensor]:
    """Return a batch as our pipeline packs it: uint8 views, masks, and ids for cached tokens."""
    rng, mask = torch.Generator().manual_seed(0), BlockwiseMask(14, 75)
    np.random.seed(0)
    inputs = dict(
        patch_view=torch.randint(256, (size, 3, 224, 224), dtype=torch.uint8, generator=rng),
        token_view=torch.randint(256, (size, 3, 112, 112), dtype=torch.uint8, generator=rng),
        mask=torch.from_numpy(np.stack([mask.transform({})['mask'] for _ in range(size)])),
        token_ids=torch.randint(vocab_size, (size, 14, 14), generator=rng),
    )
    return {name: value.to(DEVICE) for name, value in inputs.items()}


def build_pretrainer(
    settings: BenchmarkSettings, dtype: torch.dtype
) -> tuple[Config, BEiTPretrainer]:
    """Build the model of a config of BEiT-B with random weights."""
    cfg = Config.fromfile(PRETRAINING_CONFIG)
    init_default_scope(cfg.default_scope)
    if settings.quick:
        cfg.model.backbone.arch, cfg.model.head.in_channels = TOY, TOY['embed_dims']
        cfg.model.target.tokenizer.update(TOY_TOKENIZER)
        cfg.model.head.out_channels = TOY_TOKENIZER['vocab_size']
    if dtype == torch.float32:
        cfg.optim_wrapper.type = 'OptimWrapper'
        cfg.optim_wrapper.pop('loss_scale')
        cfg.model.target.dtype = 'float32'
    elif DEVICE == 'cpu':
        adapt_to_cpu(cfg)  # bfloat16
    else:
        cfg.optim_wrapper.update(dtype='bfloat16', loss_scale=1.0)
    model = MODELS.build(cfg.model).to(DEVICE).train()
    model.target.has_weights = True  # the time does not depend on the weights
    return cfg, model


def our_step(settings: BenchmarkSettings, dtype: torch.dtype, cached: bool) -> Turn:
    cfg, model = build_pretrainer(settings, dtype)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    steps = skip_nonfinite_steps(wrapper, model)
    defer(wrapper.message_hub)
    if settings.compile:
        compile_blocks(model)
    inputs = make_batch(settings.batch, cfg.model.head.out_channels)
    inputs.pop('token_view' if cached else 'token_ids')

    def turn() -> None:
        model.train_step(dict(inputs=inputs), wrapper)
        steps.clear()  # as the watchdog does

    return turn


def their_step(name: str, settings: BenchmarkSettings, dtype: torch.dtype) -> Turn:
    return other_training.STEPS[name](settings, dtype, make_batch(settings.batch, 1))


def step(settings: BenchmarkSettings) -> Iterator[dict]:
    libraries = settings.installed('hf', 'mmpretrain')
    for name, dtype in dtypes().items():
        turns = dict(
            online=our_step(settings, dtype, False), cached=our_step(settings, dtype, True)
        )
        turns |= {library: their_step(library, settings, dtype) for library in libraries}
        warm_up = 2 if settings.compile else 1
        times = take_turns(turns, settings.rounds, warm_up, STEPS_PER_TURN)
        del turns
        cached = times.pop('cached')
        work = settings.batch
        for kind, gflop in dict(online=GFLOP_CACHED + GFLOP_TOKENIZER, cached=GFLOP_CACHED).items():
            case = f'step/{name}/{kind}'
            yield row(settings, case, 'images/s', times, work, kind, gflop * work, dtype)
            times['cached'] = cached  # compared with `online` too, but not the other way round


def tokenize(settings: BenchmarkSettings) -> Iterator[dict]:
    """Time our tokenizer and DALL-E's encoder, as mmpretrain has it, on views of 112 px."""
    views = make_batch(settings.batch, 1)['token_view'].float() / 255
    for name, dtype in dtypes().items():
        target = build_pretrainer(settings, dtype)[1].target
        turns: dict[str, Turn] = dict(ours=lambda target=target: target(dict(token_view=views)))
        for library in settings.installed('mmpretrain'):
            turns[library] = other_training.tokenization(views * 0.8 + 0.1, settings, dtype)
        times = take_turns(turns, settings.rounds)
        case, work, gflop = f'tokenize/{name}', settings.batch, GFLOP_TOKENIZER * settings.batch
        yield row(settings, case, 'images/s', times, work, gflop=gflop, dtype=dtype)


def memory(settings: BenchmarkSettings) -> Iterator[dict]:
    """Measure the peak memory of a step with four times the batch, each in a process of its own."""
    large = replace(settings, batch=4 * settings.batch)
    name, dtype = next(iter(dtypes().items()))
    peaks = dict(ours=peak_memory(_one_step, our_step, large, dtype, False))
    for library in settings.installed('hf', 'mmpretrain'):
        peaks[library] = peak_memory(_one_step, their_step, library, large, dtype)
    single = {library: [peak] for library, peak in peaks.items()}
    found, own = row(settings, f'step/{name}/memory', 'GiB', single, 1.0), peaks.pop('ours')
    yield found | dict(ours=own, libraries=peaks, peak_rss_gib=own)


def _one_step(make: object, *args: object) -> None:
    make(*args)()

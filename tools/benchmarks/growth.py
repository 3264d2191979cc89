"""How time grows with the side of the image, the batch, the hidden patches, the vocabulary and the number of files.

A row's value is the exponent of the line through (log size, log seconds); `seconds` holds what it goes through. Of the model
a small one is taken, whose shape is BEiT-B's: width 192, four blocks, f32.
"""

import statistics
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from mmengine.registry import init_default_scope

from beit_mm.data.seeded import KeyedSampler
from beit_mm.models import BEiTPretrainer

from .steps import DEVICE, TOY
from .turns import Settings, Turn, machine, take_turns

ARCH = dict(embed_dims=192, num_layers=4, num_heads=3, feedforward_channels=768)
USUAL = dict(side=224, batch=4, hidden=75, vocab_size=8192)
SIZES = dict(
    side=(112, 224, 448, 896),
    batch=(1, 4, 16),
    hidden=(25, 75, 196),
    vocab_size=(512, 8192, 65536),
    files=(10**3, 10**5, 10**7),
)


def step(arch: dict, side: int, batch: int, hidden: int, vocab_size: int) -> Turn:
    """Forward and backward with the tokens given."""
    grid = side // 16
    hidden = min(hidden, grid * grid)
    model = BEiTPretrainer(
        backbone=dict(type='BEiT', arch=arch, img_size=side, mask_token=True, rel_pos_bias='shared', layer_scale=0.1),
        target=dict(type='TokenTarget', tokenizer=dict(type='DiscreteVAE', vocab_size=vocab_size, width=4, width_in=4)),
        head=dict(type='MIMHead', in_channels=arch['embed_dims'], out_channels=vocab_size),
        num_masked=hidden,
    ).to(DEVICE)
    mask = torch.zeros(batch, grid * grid, dtype=torch.bool, device=DEVICE)
    mask[:, :hidden] = True
    inputs = dict(
        patch_view=torch.randn(batch, 3, side, side, device=DEVICE),
        token_ids=torch.randint(vocab_size, (batch, grid, grid), device=DEVICE),
        mask=mask.view(batch, grid, grid),
    )
    return lambda: model.loss(inputs)['loss'].backward()


def resume(files: int) -> Turn:
    """The sampler of a run that goes on in the middle of an epoch of so many files."""

    def turn() -> None:
        sampler = KeyedSampler(range(files), seed=0)
        sampler.skip(files // 2)
        next(iter(sampler))

    return turn


def exponent(sizes: Iterable[float], seconds: Iterable[float]) -> float:
    return float(np.polyfit(np.log(list(sizes)), np.log(list(seconds)), 1)[0])


def growth(settings: Settings) -> Iterator[dict]:
    init_default_scope('beit_mm')
    for axis, sizes in SIZES.items():
        sizes = sizes[:2] if settings.quick else sizes
        arch, usual = (TOY, USUAL | dict(batch=1, vocab_size=512)) if settings.quick else (ARCH, USUAL)
        seconds = {}
        for size in sizes:
            turn = resume(size) if axis == 'files' else step(arch, **usual | {axis: size})
            seconds[size] = statistics.median(take_turns(dict(ours=turn), min(settings.rounds, 3))['ours'])
        value = exponent(seconds, seconds.values())
        found = dict(case=f'growth/{axis}', unit=f'= exponent, {axis} {sizes[0]} … {sizes[-1]}', ours=value)
        nothing = dict(peers={}, ratio={}, spread={}, share_of_peak=None, peak_rss_gib=None)
        yield found | nothing | dict(seconds=seconds, machine=machine())

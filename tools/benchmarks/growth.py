"""How time and memory grow with the side of the image, the batch, the hidden patches, the vocabulary, the files and the ranks.

A row's value is the exponent of the line through (log size, log value); `values` holds what it goes through. Of the model
a small one is taken, whose shape is BEiT-B's: width 192, four blocks, f32. Memory is what a step, or a worker, needs above
what was there before.
"""

import math
import statistics
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from mmengine.registry import init_default_scope
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from beit_mm.data.image_list import ImageList
from beit_mm.data.seeded import KeyedSampler
from beit_mm.models import BEiTPretrainer

from .steps import DEVICE, TOY
from .turns import Settings, Turn, extra_memory, machine, take_turns

ARCH = dict(embed_dims=192, num_layers=4, num_heads=3, feedforward_channels=768)
USUAL = dict(side=224, batch=4, hidden=75, vocab_size=8192)
SIZES = dict(
    side=(112, 224, 448, 896),
    batch=(1, 4, 16),
    hidden=(25, 75, 196),
    vocab_size=(512, 8192, 65536),
)
FILES = (10**3, 10**5, 10**7)


def growth(settings: Settings) -> Iterator[dict]:
    init_default_scope('beit_mm')
    arch, usual = (TOY, USUAL | dict(batch=1, vocab_size=512)) if settings.quick else (ARCH, USUAL)
    rounds = min(settings.rounds, 3)
    for axis, sizes in SIZES.items():
        seconds, memory = {}, {}
        for size in sizes[:2] if settings.quick else sizes:
            turn = step(arch, **usual | {axis: size})
            seconds[size] = statistics.median(take_turns(dict(ours=turn), rounds)['ours'])
            memory[size] = extra_memory(turn)
            del turn
        yield _row(f'{axis}/time', 's', seconds)
        if not any(map(math.isnan, memory.values())):
            yield _row(f'{axis}/memory', 'GiB', memory)
    yield from _files(FILES[:2] if settings.quick else FILES, rounds)
    yield _ranks(arch, usual, rounds)


def _row(case: str, unit: str, values: dict[int, float]) -> dict:
    words = ', '.join(f'{size:g}: {value:.3g}' for size, value in values.items())
    return _bare(case, f'= exponent ({words} {unit})', exponent(values, values.values()), values)


def _bare(case: str, unit: str, value: float, values: dict) -> dict:
    nothing = dict(peers={}, ratio={}, spread={}, share_of_peak=None, peak_rss_gib=None)
    return (
        dict(case=f'growth/{case}', unit=unit, ours=value)
        | nothing
        | dict(values=values, machine=machine())
    )


def exponent(sizes: Iterable[float], values: Iterable[float]) -> float:
    values = np.maximum(list(values), 1e-9)
    return float(np.polyfit(np.log(list(sizes)), np.log(values), 1)[0])


# -- the model ---------------------------------------------------------------------------------------------------------


def step(arch: dict, side: int, batch: int, hidden: int, vocab_size: int) -> Turn:
    """Forward and backward with the tokens given; the gradients of the one before are thrown away first."""
    model, inputs = _model(arch, side, batch, hidden, vocab_size)

    def turn() -> None:
        model.zero_grad()
        model.loss(inputs)['loss'].backward()

    return turn


def _model(
    arch: dict, side: int, batch: int, hidden: int, vocab_size: int
) -> tuple[BEiTPretrainer, dict]:
    grid = side // 16
    hidden = min(hidden, grid * grid)
    model = BEiTPretrainer(
        backbone=dict(
            type='BEiT',
            arch=arch,
            img_size=side,
            mask_token=True,
            rel_pos_bias='shared',
            layer_scale=0.1,
        ),
        target=dict(
            type='TokenTarget',
            tokenizer=dict(type='DiscreteVAE', vocab_size=vocab_size, width=4, width_in=4),
        ),
        head=dict(type='MIMHead', in_channels=arch['embed_dims'], out_channels=vocab_size),
        num_masked=hidden,
    ).to(DEVICE)
    mask = torch.zeros(batch, grid * grid, dtype=torch.bool, device=DEVICE)
    mask[:, :hidden] = True
    return model, dict(
        patch_view=torch.randn(batch, 3, side, side, device=DEVICE),
        token_ids=torch.randint(vocab_size, (batch, grid, grid), device=DEVICE),
        mask=mask.view(batch, grid, grid),
    )


# -- files -------------------------------------------------------------------------------------------------------------


class Private(torch.utils.data.Dataset):
    """Reads the list, and says how many GiB the reader shares with nobody."""

    def __init__(self, images: ImageList):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> float:
        self.images.get_data_info(index)
        lines = Path('/proc/self/smaps_rollup').read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith('Private_')) / 2**20


def _files(sizes: Iterable[int], rounds: int) -> Iterator[dict]:
    start, resume, worker = {}, {}, {}
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, 'list.txt')
            path.write_text(
                ''.join(f'n{i % 1000:08d}/n{i % 1000:08d}_{i}.JPEG\n' for i in range(size))
            )
            settings = dict(ann_file=str(path), data_prefix='data', with_label=False)

            def open_list(settings: dict = settings) -> int:
                return len(ImageList(**settings))

            def go_on(size: int = size) -> int:
                """In the middle of an epoch."""
                sampler = KeyedSampler(range(size), seed=0)
                sampler.skip(size // 2)
                return next(iter(sampler))

            times = take_turns(dict(start=open_list, resume=go_on), rounds)
            start[size], resume[size] = (
                statistics.median(times[name]) for name in ('start', 'resume')
            )
            if Path('/proc/self/smaps_rollup').exists():
                picks = np.random.default_rng(0).integers(0, size, 50).tolist()
                loader = DataLoader(
                    Private(ImageList(**settings)),
                    batch_size=None,
                    sampler=picks,
                    num_workers=1,
                    multiprocessing_context='fork',
                )
                worker[size] = max(loader)
    yield _row('files/start', 's', start)
    yield _row('files/resume', 's', resume)
    if worker:
        yield _row('files/worker', 'GiB', worker)


# -- ranks -------------------------------------------------------------------------------------------------------------


def _ranks(arch: dict, usual: dict, rounds: int) -> dict:
    """With one and two processes of a thread each (gloo): the share of a step that ends when the gradients are not sent."""
    share = {}
    for ranks in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            torch.multiprocessing.spawn(_rank, (ranks, folder, arch, usual, rounds), ranks)
            share[ranks] = float(Path(folder, 'share').read_text())
    words = ', '.join(f'{ranks}: {value:.1%}' for ranks, value in share.items())
    return _bare('ranks', f'= share of communication with two ({words})', share[2], share)


def _rank(rank: int, ranks: int, folder: str, arch: dict, usual: dict, rounds: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=ranks
    )
    init_default_scope('beit_mm')
    model, inputs = _model(arch, **usual)
    model, inputs = model.cpu(), {name: value.cpu() for name, value in inputs.items()}
    parallel = DistributedDataParallel(model)

    def together() -> None:
        parallel(inputs, mode='loss')['loss'].backward()

    def alone() -> None:
        with parallel.no_sync():
            together()

    times = take_turns(dict(together=together, alone=alone), 3 * rounds)
    if rank == 0:
        pairs = zip(times['alone'], times['together'], strict=True)
        Path(folder, 'share').write_text(str(1 - statistics.median(a / b for a, b in pairs)))
    dist.barrier()
    dist.destroy_process_group()

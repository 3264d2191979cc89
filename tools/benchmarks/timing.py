"""Time libraries in turns (A B C, B C A, …), so that other load on the machine affects all."""

import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import get_context

import torch
from reports.summary import processor

from beit_mm.engine.cpu import has_bfloat16
from beit_mm.engine.hooks.throughput import matmul_peak
from beit_mm.utils.processes import peak_memory_mib

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
_SAME_NAMES = ('timm', 'mmpretrain', 'mmseg', 'torchvision')
LIBRARIES = dict(hf='transformers') | {name: name for name in _SAME_NAMES}  # name → package
TOY = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
Turn = Callable[[], object]
Times = dict[str, list[float]]


@dataclass(frozen=True)
class BenchmarkSettings:
    """Options of the command line."""

    libraries: list[str]
    batch: int = 8
    rounds: int = 5
    compile: bool = False
    quick: bool = False

    def installed(self, *supported: str) -> list[str]:
        """Return the requested libraries among the supported ones, and name those not installed."""
        found = []
        for name in (name for name in self.libraries if name in supported):
            if find_spec(LIBRARIES[name]):
                found.append(name)
            else:
                print(f'{name} is skipped: pip install {LIBRARIES[name]}')
        return found


def dtypes() -> dict[str, torch.dtype]:
    """Return the precisions that the device supports at full speed."""
    if DEVICE == 'cpu' and not has_bfloat16():
        print('bf16 is skipped: this CPU has no bfloat16')
        return dict(f32=torch.float32)
    return dict(bf16=torch.bfloat16, f32=torch.float32)


def autocast(dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(DEVICE, torch.bfloat16, enabled=dtype != torch.float32)


def take_turns(turns: dict[str, Turn], rounds: int, warm_up: int = 1, calls: int = 1) -> Times:
    """Return the seconds per call and round after the warm-up; waits for a GPU once per turn."""
    times, order = {name: [] for name in turns}, list(turns)
    for round_ in range(-warm_up, rounds):
        order.append(order.pop(0))  # the first one of a round finds another state of the caches
        for name in order:
            start = time.perf_counter()
            for _ in range(calls):
                turns[name]()
            if DEVICE == 'cuda':
                torch.cuda.synchronize()
            if round_ >= 0:
                times[name].append((time.perf_counter() - start) / calls)
    return times


def row(
    settings: BenchmarkSettings,
    case: str,
    unit: str,
    times: Times,
    work: float,
    ours: str = 'ours',
    gflop: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict:
    """Return one row of the report: rates in `unit` if a turn does `work` units; ratios to `ours`.

    `gflop` per turn of the full model gives the share of the peak of a matrix product of `dtype`.
    """
    median = {name: statistics.median(seconds) for name, seconds in times.items()}
    ratios = {}
    for name in [name for name in times if name != ours]:
        ratios[name] = [theirs / own for theirs, own in zip(times[name], times[ours], strict=True)]
    share = None
    if gflop and not settings.quick:
        share = gflop * 1e9 / median[ours] / matmul_peak(torch.device(DEVICE), dtype)
    return dict(
        case=case,
        unit=unit,
        ours=work / median[ours],
        libraries={name: work / median[name] for name in ratios},
        ratio={name: statistics.median(ratio) for name, ratio in ratios.items()},
        spread={name: [min(ratio), max(ratio)] for name, ratio in ratios.items()},
        share_of_peak=share,
        peak_rss_gib=None,
        machine=machine(),
    )


def show(row: dict) -> str:
    """Return a row as a line of text."""
    words = [f'{row["case"]:24s} {row["ours"]:10.4g} {row["unit"]}']
    if row['share_of_peak']:
        words.append(f'{row["share_of_peak"]:.0%} of the peak')
    if row['peak_rss_gib']:
        words.append(f'{row["peak_rss_gib"]:.2f} GiB')
    for name, ratio in row['ratio'].items():
        low, high = row['spread'][name]
        words.append(f'{ratio:.2f}× {name} ({low:.2f} … {high:.2f}; {row["libraries"][name]:.4g})')
    return '   '.join(words)


def machine() -> str:
    """Return the processor or GPU, the number of threads and the versions that matter."""
    cpu = f'{torch.get_num_threads()} threads of {processor()}'
    name = torch.cuda.get_device_name() if DEVICE == 'cuda' else cpu
    return f'{name}, torch {torch.__version__}, python {platform.python_version()}'


def peak_memory(function: Callable, *args: object) -> float:
    """Return the peak memory (GiB, on a GPU: allocated) of `function(*args)` in its own process.

    The process is forked from a small server: a spawned one inherits the peak of this process.
    """
    with ProcessPoolExecutor(1, get_context('forkserver')) as pool:
        return pool.submit(_measure_peak, torch.get_num_threads(), function, *args).result()


def _measure_peak(threads: int, function: Callable, *args: object) -> float:
    torch.set_num_threads(threads)
    function(*args)
    on_gpu = torch.cuda.max_memory_allocated() / 2**30 if DEVICE == 'cuda' else 0
    return on_gpu or peak_memory_mib() / 1024

"""Who is faster: contestants take turns (A B C A B C …), so that a busy machine is equally busy for all of them."""

import ctypes
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from reports.summary import processor

Turn = Callable[[], object]
Times = dict[str, list[float]]
PEAK = 'matrix product'


@dataclass(frozen=True)
class Settings:
    peers: list[str]
    batch: int = 8
    rounds: int = 5
    compile: bool = False
    quick: bool = False


def take_turns(
    contestants: dict[str, Turn], rounds: int, warm_up: int = 1, calls: int = 1
) -> Times:
    """Seconds of each call in each turn of each contestant; the warm-up's are left out. The device is waited for once a turn."""
    times, order = {name: [] for name in contestants}, list(contestants)
    for round_ in range(-warm_up, rounds):
        order.append(order.pop(0))  # who follows the matrix product finds a hot processor
        for name in order:
            turn = contestants[name]
            start = time.perf_counter()
            for _ in range(calls):
                turn()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if round_ >= 0:
                times[name].append((time.perf_counter() - start) / calls)
    return times


def spread(values: list[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


def ratios(of: list[float], to: list[float]) -> list[float]:
    return [a / b for a, b in zip(of, to, strict=True)]


def row(
    case: str,
    unit: str,
    times: Times,
    work: float,
    ours: str = 'ours',
    peers: list[str] | None = None,
    flop: float | None = None,
    rss: float | None = None,
) -> dict:
    """One row of the report: `work` units are done in a turn, `flop` operations by ours.

    Extra to what was asked for, `spread` holds the least and the greatest ratio of each pair.
    """
    peers = [name for name in times if name not in (ours, PEAK)] if peers is None else peers
    pairs = {name: ratios(times[name], times[ours]) for name in peers}
    share = None
    if flop and PEAK in times:
        share = statistics.median(
            flop / (product_flop() * t) for t in ratios(times[ours], times[PEAK])
        )
    return dict(
        case=case,
        unit=unit,
        ours=work / statistics.median(times[ours]),
        peers={name: work / statistics.median(times[name]) for name in peers},
        ratio={name: statistics.median(pair) for name, pair in pairs.items()},
        spread={name: [min(pair), max(pair)] for name, pair in pairs.items()},
        share_of_peak=share,
        peak_rss_gib=rss,
        machine=machine(),
    )


def show(row: dict) -> str:
    words = [f'{row["case"]:24s} {row["ours"]:10.4g} {row["unit"]}']
    if row['share_of_peak']:
        words.append(f'{row["share_of_peak"]:.0%} of the peak')
    if row['peak_rss_gib']:
        words.append(f'{row["peak_rss_gib"]:.2f} GiB')
    for name, ratio in row['ratio'].items():
        low, high = row['spread'][name]
        words.append(f'{ratio:.2f}× {name} ({low:.2f} … {high:.2f}; {row["peers"][name]:.4g})')
    return '   '.join(words)


# -- the machine -------------------------------------------------------------------------------------------------------


PRODUCTS = 8  # in a turn: one alone is too short to be timed


def product_flop() -> float:
    return PRODUCTS * 2.0 * (8192 if torch.cuda.is_available() else 2048) ** 3


def matrix_product(dtype: torch.dtype) -> Turn:
    """Large square products: what a processor can do at most with this dtype and these threads."""
    side, device = (8192, 'cuda') if torch.cuda.is_available() else (2048, 'cpu')
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return lambda: [a @ b for _ in range(PRODUCTS)]


def machine() -> str:
    """The processor (or GPU), how many threads, the versions that matter."""
    cpu = f'{torch.get_num_threads()} threads of {processor()}'
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu
    return f'{name}, torch {torch.__version__}, python {platform.python_version()}'


def peak_memory(function: Callable, *args: object) -> float:
    """GiB that a new process needed at most for `function(*args)`: resident memory, or the GPU's."""
    receive, send = get_context('spawn').Pipe(False)
    process = get_context('spawn').Process(
        target=_measured, args=(send, torch.get_num_threads(), function, *args)
    )
    process.start()
    send.close()
    try:
        return receive.recv()
    finally:
        process.join()


def _measured(send: object, threads: int, function: Callable, *args: object) -> None:
    torch.set_num_threads(threads)
    function(*args)
    send.send(_high_water())


def extra_memory(turn: Turn) -> float:
    """GiB that a turn needs at most above what this process has; not a number where the system does not tell."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**30
    elif not Path('/proc/self/clear_refs').exists():
        return float('nan')
    else:
        ctypes.CDLL(None).malloc_trim(0)  # what is kept for the next time would not be counted
        Path('/proc/self/clear_refs').write_text('5')  # the high water mark begins anew
        before = _high_water()
    turn()
    return _high_water() - before


def _high_water() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    status = Path('/proc/self/status')
    if (
        status.exists()
    ):  # unlike ru_maxrss this is not inherited from the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith('VmHWM'))
        return int(line.split()[1]) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        2**30 if os.uname().sysname == 'Darwin' else 2**20
    )

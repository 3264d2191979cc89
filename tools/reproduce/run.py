"""Seeds side by side: each a chain of stages in a process of its own, with what it prints in its folder's log.txt."""

import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed

from recipe import runner
from recipe.chain import Recipe
from recipe.plan import Settings
from recipe.process import StageFailed, Stopped, say

from beit_mm.utils.processes import end_with_parent


def run(chains: list[tuple[Recipe, Settings]], jobs: int) -> Iterator[tuple[int, str]]:
    """Run them, `jobs` at a time; yields each seed as it ends, and the error in words, '' for none.

    A process has its share of the cores, unless OMP_NUM_THREADS says otherwise, and on a machine with several GPUs
    its own.
    """
    for recipe, settings in chains:  # one after the other; processes of seeds share the data
        runner.prepare(recipe, settings)
    os.environ.setdefault('OMP_NUM_THREADS', str(max(1, (os.cpu_count() or 1) // jobs)))
    context = multiprocessing.get_context('spawn')
    slots = context.Queue()
    for slot in range(jobs):
        slots.put(slot)
    executor = ProcessPoolExecutor(jobs, context, _begin, (slots,))
    try:
        futures = {executor.submit(_one, *chain): chain[1] for chain in chains}
        for future in as_completed(futures):
            yield futures[future].seed, future.result()
    except BaseException:
        executor.shutdown(cancel_futures=True)
        raise
    executor.shutdown()


def _begin(slots) -> None:
    """A process with its own GPU, if there are several, that does not outlive this one."""
    import torch

    end_with_parent()
    slot, gpus = slots.get(), torch.cuda.device_count()
    if gpus > 1 and 'CUDA_VISIBLE_DEVICES' not in os.environ:
        os.environ['CUDA_VISIBLE_DEVICES'] = str(slot % gpus)


def _one(recipe: Recipe, to: Settings) -> str:
    to.work_dir.mkdir(parents=True, exist_ok=True)
    with (to.work_dir / 'log.txt').open('a') as log:
        sys.stdout.flush()
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        runner.run(recipe, to)
    except (StageFailed, Stopped, FileNotFoundError, ValueError) as error:
        say(f'error: {error}')
        return str(error)
    return ''

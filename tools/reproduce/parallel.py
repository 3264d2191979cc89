"""Run the recipes of several seeds in parallel processes; each logs to log.txt in its folder."""

import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed

from recipe import runner
from recipe.chain import Recipe
from recipe.display import say
from recipe.plan import RunSettings
from recipe.process import StageFailed, Stopped

from beit_mm.utils.processes import end_with_parent


def run_seeds(runs: list[tuple[Recipe, RunSettings]], jobs: int) -> Iterator[tuple[int, str]]:
    """Run recipes, `jobs` at a time; yield each finished seed with its error message ('' for none).

    A process gets its share of the cores unless OMP_NUM_THREADS is set, and one of several GPUs.
    """
    for recipe, settings in runs:  # not in parallel, since the seeds share the data
        runner.prepare(recipe, settings)
    os.environ.setdefault('OMP_NUM_THREADS', str(max(1, (os.cpu_count() or 1) // jobs)))
    context = multiprocessing.get_context('spawn')
    slots = context.Queue()
    for slot in range(jobs):
        slots.put(slot)
    executor = ProcessPoolExecutor(jobs, context, _start_worker, (slots,))
    try:
        futures = {executor.submit(_run_seed, *run): run[1].seed for run in runs}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        executor.shutdown(cancel_futures=True)


def _start_worker(slots: multiprocessing.Queue) -> None:
    import torch

    end_with_parent()
    slot, gpus = slots.get(), torch.cuda.device_count()
    if gpus > 1 and 'CUDA_VISIBLE_DEVICES' not in os.environ:
        os.environ['CUDA_VISIBLE_DEVICES'] = str(slot % gpus)


def _run_seed(recipe: Recipe, settings: RunSettings) -> str:
    settings.work_dir.mkdir(parents=True, exist_ok=True)
    with (settings.work_dir / 'log.txt').open('a') as log:
        sys.stdout.flush()
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        runner.run(recipe, settings)
    except (StageFailed, Stopped, FileNotFoundError, ValueError) as error:
        say(f'error: {error}')
        return str(error)
    return ''

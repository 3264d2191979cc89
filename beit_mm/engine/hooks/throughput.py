"""Throughput of a run in its training log."""

import time

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.benchmark import Timer

from ...registry import HOOKS
from ...utils.arguments import check_numbers
from ...utils.processes import peak_memory_mib
from .deferred_log import get_log_interval

MIN_SECONDS = 0.01  # duration of a matrix product that can be timed


@HOOKS.register_module()
class Throughput(Hook):
    """Hook that logs the throughput of the iterations since the last line of the log.

    - `images_per_s`: images per second of all ranks.
    - `data_time_frac`: fraction of the time in which the loop waited for its data loader.
    - `mfu` (model FLOPs utilization): fraction of the device's peak; needs `gflop_per_image`.
    - `peak_rss_mib`: peak memory of the process; on a GPU mmengine logs the device's memory.

    Args:
        gflop_per_image: operations of forward, backward and tokenizer (docs/performance.md).
        peak_tflops: peak of the device in the precision of the run. None: measure the peak of a
            large matrix product when training starts.

    Raises ValueError if one of them is not positive.
    """

    priority = 'NORMAL'  # before LoggerHook, which reads the values

    def __init__(self, gflop_per_image: float | None = None, peak_tflops: float | None = None):
        for name, value in dict(gflop_per_image=gflop_per_image, peak_tflops=peak_tflops).items():
            if value is not None:
                check_numbers(1e-9, **{name: value})
        self.gflop_per_image, self.peak_tflops = gflop_per_image, peak_tflops

    def before_train(self, runner: Runner) -> None:
        self.interval = get_log_interval(runner)
        if self.gflop_per_image and self.peak_tflops is None:
            device = next(runner.model.parameters()).device
            half = torch.bfloat16 if device.type == 'cpu' else torch.float16
            amp = 'Amp' in type(runner.optim_wrapper).__name__
            self.peak_tflops = matmul_peak(device, half if amp else torch.float32) / 1e12

    def restart(self, runner: Runner, metrics: dict | None = None) -> None:
        self.start = self.iteration_end = time.perf_counter()
        self.waited, self.num_images = 0.0, 0

    before_train_epoch = after_val_epoch = restart

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        self.waited += time.perf_counter() - self.iteration_end
        self.num_images += count_images(data_batch)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        if self.every_n_inner_iters(batch_idx, self.interval):
            self._log(runner)
            self.restart(runner)
        self.iteration_end = time.perf_counter()

    def _log(self, runner: Runner) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # the logger is about to wait as well
        seconds = time.perf_counter() - self.start
        rate = self.num_images / seconds
        values = dict(images_per_s=rate * get_world_size(), data_time_frac=self.waited / seconds)
        if self.gflop_per_image:
            values['mfu'] = rate * self.gflop_per_image / (self.peak_tflops * 1e3)
        if not torch.cuda.is_available():
            values['peak_rss_mib'] = peak_memory_mib()
        for name, value in values.items():
            runner.message_hub.update_scalar(f'train/{name}', value)


def count_images(batch: object) -> int:
    """Return the size of a batch: the length of its `inputs`, or of the first value in them."""
    while isinstance(batch, dict) and batch:
        batch = batch.get('inputs', next(iter(batch.values())))
    return len(batch) if hasattr(batch, '__len__') else 0


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s of a square matrix product, the best of six.

    The matrices are just large enough to be timed, since a larger product takes long on some CPUs.
    """
    side, best = 128, 0.0
    while not best or (side < 8192 and 2 * side**3 / best < MIN_SECONDS):
        side *= 2
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        product = Timer('a @ b', globals=dict(a=a, b=b), num_threads=torch.get_num_threads())
        best = 2 * side**3 / min(product.timeit(1).mean for _ in range(6))
    return best

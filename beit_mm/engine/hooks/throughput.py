"""How fast a run is, in its log: images a second, what share of the device's peak that is, and how much of the time data took."""

import time

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook, LoggerHook
from mmengine.runner import Runner

from ...registry import HOOKS
from ...utils.arguments import check_numbers
from ...utils.processes import peak_memory_mib

ENOUGH = 0.01  # seconds that a matrix product takes to be timed


@HOOKS.register_module()
class Throughput(Hook):
    """Adds to each line of the training log, over the iterations since the last one: `images_per_s` of all ranks, `data_time_frac`
    (the share of the time, from 0 to 1, in which the loop waited for its loader), `mfu` and, on a CPU, `peak_rss_mib` (peak, MiB;
    the log has a GPU's memory anyway).

    Args:
        gflop_per_image: operations an image, forward, backward and tokenizer (docs/performance.md); None leaves `mfu` out, the share of
            the peak ("model FLOPs utilization").
        peak_tflops: TFLOP/s of a device in the precision that is trained in; None: measured by a large matrix product at the start.

    Raises ValueError for a `gflop_per_image` or `peak_tflops` that is not positive.
    """

    priority = 'NORMAL'  # before the logger, which comes below

    def __init__(self, gflop_per_image: float | None = None, peak_tflops: float | None = None):
        for name, value in dict(gflop_per_image=gflop_per_image, peak_tflops=peak_tflops).items():
            if value is not None:
                check_numbers(**{name: value})
                if value <= 0:
                    raise ValueError(f'{name}={value}: give a positive number, or None')
        self.gflop_per_image, self.peak_tflops = gflop_per_image, peak_tflops

    def before_train(self, runner: Runner) -> None:
        self.interval = next((h.interval for h in runner.hooks if isinstance(h, LoggerHook)), 50)
        if self.gflop_per_image and self.peak_tflops is None:
            device = next(runner.model.parameters()).device
            amp = 'Amp' in type(runner.optim_wrapper).__name__
            half = torch.bfloat16 if device.type == 'cpu' else torch.float16
            self.peak_tflops = matmul_peak(device, half if amp else torch.float32) / 1e12
        self._restart()

    before_train_epoch = before_train  # a validation in between is not training

    def _restart(self) -> None:
        self.start = self.ready = time.perf_counter()
        self.waited, self.images = 0.0, 0

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        self.waited += time.perf_counter() - self.ready
        self.images += images_of(data_batch)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        if self.every_n_train_iters(runner, self.interval):
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # the logger is about to wait in any case
            seconds = time.perf_counter() - self.start
            rate = self.images / seconds
            values = dict(
                images_per_s=rate * get_world_size(), data_time_frac=self.waited / seconds
            )
            if self.gflop_per_image:
                values['mfu'] = rate * self.gflop_per_image / (self.peak_tflops * 1e3)
            if not torch.cuda.is_available():
                values['peak_rss_mib'] = peak_memory_mib()
            for name, value in values.items():
                runner.message_hub.update_scalar(f'train/{name}', value)
            self._restart()
        self.ready = time.perf_counter()

    def after_val_epoch(self, runner: Runner, metrics=None) -> None:
        self._restart()


def images_of(batch: object) -> int:
    """How many a batch holds: the length of its first list or tensor."""
    while isinstance(batch, dict) and batch:
        batch = batch.get('inputs', next(iter(batch.values())))
    return len(batch) if hasattr(batch, '__len__') else 0


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a square matrix product, the best of six: so large that it can be timed, no larger, for some CPUs are slow."""
    side, best = 128, 0.0
    while not best or (side < 8192 and 2 * side**3 / best < ENOUGH):
        side *= 2
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        best = 2 * side**3 / min(_seconds(a, b) for _ in range(6))
    return best


def _seconds(a: torch.Tensor, b: torch.Tensor) -> float:
    start = time.perf_counter()
    a @ b
    if a.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start

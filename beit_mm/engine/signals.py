"""Save a checkpoint and exit when a scheduler, torchrun or a user interrupts the run."""

import multiprocessing.util
import os
import signal
import threading
import time
from contextlib import suppress
from datetime import timedelta

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..registry import HOOKS
from .checkpointing import AtomicCheckpointHook
from .process_group import collective_timeout

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
_SAME_SIGNAL_SECONDS = 1.0  # a terminal and torchrun both pass on one Ctrl-C


@HOOKS.register_module()
class StopOnSignal(Hook):
    """Save a checkpoint and exit when the process receives a signal.

    Handles SIGTERM, SIGINT (Ctrl-C) and SIGUSR1, which Slurm sends before a job's time limit. The
    current iteration is finished (with several ranks also the next one), all ranks save after the
    same iteration, and the process exits with 128 + the signal number (143, 130, 138).

    - A second signal, at least one second later, exits immediately without saving.
    - Signals that arrive before training starts keep their default behavior.
    - Forked DataLoader workers ignore these signals and exit with their parent.

    `tools/train.py` adds this hook to every run.
    """

    priority = 'LOWEST'  # after schedules and averages have finished the iteration

    def __init__(self):
        self.received = 0
        self.handlers: dict[int, object] = {}  # those before this hook
        self.group = None
        self.request: tuple[torch.distributed.Work, torch.Tensor] | None = None
        self.common_val_batches = 0

    def before_run(self, runner: Runner) -> None:
        if threading.current_thread() is not threading.main_thread():
            words = 'signals do not save a checkpoint: the Runner is not in the main thread'
            runner.logger.warning(words)
            return
        if get_world_size() > 1 and self.group is None:
            timeout = timedelta(seconds=collective_timeout(runner.cfg))
            self.group = torch.distributed.new_group(backend='gloo', timeout=timeout)
        if not self.handlers:
            os.register_at_fork(after_in_child=self._ignore_in_worker)
            multiprocessing.util.Finalize(None, _kill_workers, exitpriority=100)
            reader, self.writer = os.pipe()
            os.set_blocking(self.writer, False)
            threading.Thread(target=_exit_at_second_signal, args=(reader,), daemon=True).start()
            self.former_writer = signal.set_wakeup_fd(self.writer)
            self.handlers = {number: signal.signal(number, self._receive) for number in SIGNALS}

    def after_run(self, runner: Runner) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        if self.handlers:
            signal.set_wakeup_fd(self.former_writer)
            os.close(self.writer)
        self.handlers = {}

    # -- where ranks may stop

    def after_train_iter(self, runner: Runner, batch_idx: int, **_: object) -> None:
        if _counts_epochs(runner) and self.end_of_epoch(runner.train_dataloader, batch_idx):
            return  # `after_train_epoch` follows
        if number := self._signal_of_any_rank():
            self._stop(runner, number, runner.epoch, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        if _counts_epochs(runner) and (number := self._signal_of_any_rank()):
            self._stop(runner, number, runner.epoch + 1, runner.iter, epoch_ended=True)

    def before_val_epoch(self, runner: Runner) -> None:
        """Find the number of batches that all ranks have."""
        batches = torch.tensor(len(runner.val_dataloader))
        if self.group is not None:
            torch.distributed.all_reduce(batches, torch.distributed.ReduceOp.MIN, self.group)
        self.common_val_batches = int(batches)

    def after_val_iter(self, runner: Runner, batch_idx: int, **_: object) -> None:
        if batch_idx >= self.common_val_batches or not (number := self._signal_of_any_rank()):
            return
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                hook.after_val_epoch(runner)  # puts the model back in place of its average
        self._stop(runner, number, runner.epoch, runner.iter, _counts_epochs(runner))

    def after_train(self, runner: Runner) -> None:
        self._answer()

    def _signal_of_any_rank(self) -> int:
        """Return the signal that a rank had received one call ago, the same on all ranks, or 0.

        Asks without blocking: the answer is read in the next call.
        """
        if self.group is None:
            return self.received
        number = self._answer()
        if not number:
            flag = torch.tensor(self.received)
            maximum = torch.distributed.ReduceOp.MAX
            work = torch.distributed.all_reduce(flag, maximum, self.group, async_op=True)
            self.request = work, flag
        return number

    def _answer(self) -> int:
        if self.request is None:
            return 0
        work, flag = self.request
        self.request = None
        work.wait()
        return int(flag)

    def _stop(
        self, runner: Runner, number: int, epoch: int, iteration: int, epoch_ended: bool = False
    ) -> None:
        name = signal.Signals(number).name
        runner.logger.info(f'{name}: saving after iteration {iteration}, exit code {128 + number}')
        savers = [hook for hook in runner.hooks if isinstance(hook, AtomicCheckpointHook)]
        for hook in savers:
            hook.save_now(runner, epoch, iteration, epoch_ended)
        if not savers:
            words = 'nothing was saved: default_hooks.checkpoint is not an AtomicCheckpointHook'
            runner.logger.warning(words)
        if self.group is not None:
            torch.distributed.barrier(group=self.group)
        for other in self.handlers:  # torchrun ends the other ranks when one has ended
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    # -- signals

    def _receive(self, number: int, frame: object) -> None:
        self.received = self.received or number

    def _ignore_in_worker(self) -> None:
        if self.handlers:
            signal.set_wakeup_fd(-1)
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _exit_at_second_signal(reader: int) -> None:
    """Read signals from Python's wakeup pipe, since `_receive` waits while a collective runs."""
    first = None
    while numbers := os.read(reader, 64):
        for number in filter(SIGNALS.__contains__, numbers):
            now = time.monotonic()
            if first is None:
                first = now
                with suppress(OSError):  # no logging: the main thread may hold its lock
                    os.write(2, b'stopping after this iteration; send again to exit immediately\n')
            elif now - first > _SAME_SIGNAL_SECONDS:
                os._exit(128 + number)
    os.close(reader)


def _counts_epochs(runner: Runner) -> bool:
    return isinstance(runner.train_loop, EpochBasedTrainLoop)


def _kill_workers() -> None:
    """Kill DataLoader workers at exit: multiprocessing sends SIGTERM, which they ignore."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler reports killed workers
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()

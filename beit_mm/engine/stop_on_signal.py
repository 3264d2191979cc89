"""A run that is told to stop finishes its iteration, saves, and exits so that a scheduler sees why."""

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
from .atomic_checkpoint import AtomicCheckpointHook

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
_SAME = 1.0  # seconds in which signals are one: a terminal and torchrun both pass a Ctrl-C on


@HOOKS.register_module()
class StopOnSignal(Hook):
    """On SIGTERM, SIGUSR1 (Slurm's warning before a time limit) or Ctrl-C: finish the iteration, save, exit.

    The exit code is 128 + the signal's number, as a shell has it: 143, 138, 130. A second signal, a second or more after the
    first, ends the process at once with that code, also while it waits for other ranks. All ranks stop behind the same
    iteration, whichever of them was told, and none ends before the checkpoint is on disk. Before the Runner starts a signal
    does what it does to any program: it ends it, with the same code in a shell. tools/train.py adds this hook. Workers of a
    DataLoader (forked) are shielded, since Slurm and terminals signal them too; they end with their run.
    """

    priority = 'LOWEST'  # schedules and averages have had their part of the iteration

    def __init__(self):
        self.received = 0
        self.before: dict[int, object] = {}
        self.group, self.validated_by_all = None, 0

    def before_run(self, runner: Runner) -> None:
        if threading.current_thread() is not threading.main_thread():
            runner.logger.warning(
                'a Runner outside the main thread does not save when it is told to stop'
            )
            return
        if get_world_size() > 1 and self.group is None:
            seconds = (runner.cfg.get('env_cfg') or {}).get('dist_cfg', {}).get('timeout', 1800)
            self.group = torch.distributed.new_group(
                backend='gloo', timeout=timedelta(seconds=seconds)
            )
        if not self.before:
            os.register_at_fork(after_in_child=self._shield)
            multiprocessing.util.Finalize(None, _end_workers, exitpriority=100)
            reader, self.writer = os.pipe()
            os.set_blocking(self.writer, False)
            threading.Thread(
                target=_end_at_the_second, args=(reader,), name='signals', daemon=True
            ).start()
            self.wakeup = signal.set_wakeup_fd(self.writer)
            self.before = {number: signal.signal(number, self._receive) for number in SIGNALS}

    def after_run(self, runner: Runner) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.before:
            signal.set_wakeup_fd(self.wakeup)
            os.close(self.writer)
        self.before = {}

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        if not (
            _epochs(runner) and self.end_of_epoch(runner.train_dataloader, batch_idx)
        ):  # or else the epoch ends first
            self._stop_if_told(runner, runner.epoch, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        if _epochs(runner):
            self._stop_if_told(runner, runner.epoch + 1, runner.iter, epoch_ended=True)

    def before_val_epoch(self, runner: Runner) -> None:
        """Ranks may have different numbers of batches here: they ask each other in those that all have."""
        batches = torch.tensor(len(runner.val_dataloader))
        if self.group is not None:
            torch.distributed.all_reduce(batches, torch.distributed.ReduceOp.MIN, group=self.group)
        self.validated_by_all = int(batches)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if batch_idx < self.validated_by_all:
            self._stop_if_told(runner, runner.epoch, runner.iter, _epochs(runner), validating=True)

    def _stop_if_told(
        self,
        runner: Runner,
        epoch: int,
        iteration: int,
        epoch_ended: bool = False,
        validating: bool = False,
    ) -> None:
        number = self.received
        if self.group is not None:
            told = torch.tensor(number)
            torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX, group=self.group)
            number = int(told)
        if not number:
            return
        name = signal.Signals(number).name
        runner.logger.info(
            f'{name}: saving behind iteration {iteration}, then exit with {128 + number}'
        )
        if validating:  # an average stands in the model's place
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):
                    hook.after_val_epoch(runner)
        savers = [hook for hook in runner.hooks if isinstance(hook, AtomicCheckpointHook)]
        for hook in savers:
            hook.save_now(runner, epoch, iteration, epoch_ended)
        if not savers:
            runner.logger.warning(
                'nothing was saved: default_hooks.checkpoint is no AtomicCheckpointHook'
            )
        if self.group is not None:
            torch.distributed.barrier(group=self.group)
        for other in self.before:  # torchrun ends the others when one has ended
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    def _receive(self, number: int, frame: object) -> None:
        self.received = self.received or number

    def _shield(self) -> None:
        if self.before:
            signal.set_wakeup_fd(-1)
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _end_at_the_second(reader: int) -> None:
    """What Python's C handler writes there for each signal at once; `_receive` waits while the main thread is in a collective."""
    since = None
    while numbers := os.read(reader, 64):
        for number in filter(SIGNALS.__contains__, numbers):
            now = time.monotonic()
            if since is None:
                since = now
                with suppress(
                    OSError
                ):  # no logger here: the main thread may be in the middle of its writing
                    os.write(2, b'told to stop: after this iteration; once more: at once\n')
            elif now - since > _SAME:
                os._exit(128 + number)
    os.close(reader)


def _epochs(runner: Runner) -> bool:
    return isinstance(runner.train_loop, EpochBasedTrainLoop)


def _end_workers() -> None:
    """At exit multiprocessing sends its daemons a SIGTERM, from which these are shielded, and waits for them without end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's calls a killed worker an error
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()

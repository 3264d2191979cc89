"""Logging without waiting for the device, with means over ranks."""

from collections import Counter, defaultdict
from hashlib import blake2b

import numpy as np
import torch
from mmengine.dist import all_gather_object, all_reduce, get_world_size
from mmengine.hooks import Hook, LoggerHook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import Runner
from torch import Tensor

from ...registry import HOOKS


@HOOKS.register_module()
class DeferredLog(Hook):
    """Hook that keeps logged tensors on the device until they are read, and logs means over ranks.

    mmengine reads every loss in every iteration, which waits for the device, and logs the losses of
    rank 0. `launch.build_runner` adds this hook to every run.
    """

    priority = 'NORMAL'  # after RuntimeInfoHook, which writes the values; before LoggerHook

    def before_run(self, runner: Runner) -> None:
        self.interval = get_log_interval(runner)
        defer(runner.message_hub)

    def before_train(self, runner: Runner) -> None:
        """Average before saving, too; all ranks call `save_checkpoint`."""
        save = runner.save_checkpoint

        def save_checkpoint(*args, **kwargs) -> None:
            runner.message_hub.average()
            save(*args, **kwargs)

        runner.save_checkpoint = save_checkpoint

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        # LoggerHook logs in these iterations.
        end_of_epoch = self.end_of_epoch(runner.train_dataloader, batch_idx)
        if end_of_epoch or self.every_n_inner_iters(batch_idx, self.interval):
            runner.message_hub.average()


def get_log_interval(runner: Runner) -> int:
    """Return the number of iterations per line of the log."""
    return next((hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)), 10)


def defer(hub: MessageHub) -> None:
    """Make `hub` a DeferredHub in place, since many objects refer to it."""
    if not isinstance(hub, DeferredHub):
        hub.pending, hub.num_local = defaultdict(list), Counter()
        hub.__class__ = DeferredHub


class DeferredHub(MessageHub):
    """MessageHub that copies tensors on their device and reads them when it is read itself.

    A copy is needed because CUDA graphs and in-place operations overwrite a loss.
    """

    pending: dict[str, list[tuple[Tensor, int, bool]]]  # key → (value, count, resumed)
    num_local: Counter[str]  # key → number of values that are not averaged over ranks yet

    def update_scalar(
        self, key: str, value: Tensor | float, count: int = 1, resumed: bool = True
    ) -> None:
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise ValueError(f'{key} has {value.numel()} values: log a single number')
            self.pending[key].append((value.detach().reshape(()).clone(), count, resumed))
            return
        if key in self.pending:
            self.flush()  # keeps the order
            self.num_local[key] += 1
        super().update_scalar(key, value, count, resumed)

    def flush(self) -> None:
        """Read all pending tensors, which waits for the device."""
        for key, logged in self.pending.items():
            if not logged:
                continue
            numbers = torch.stack([value for value, _, _ in logged]).tolist()
            for number, (_, count, resumed) in zip(numbers, logged, strict=True):
                super().update_scalar(key, float(number), count, resumed)
            self.num_local[key] += len(logged)
            logged.clear()

    def average(self) -> None:
        """Replace values logged since the last call by their means over ranks; all ranks call it.

        A key with different numbers of values on different ranks keeps each rank's own values.
        """
        self.flush()
        num_local, self.num_local = self.num_local, Counter()
        if get_world_size() == 1:
            return
        local = {
            key: self._log_scalars[key].data[0][-num:] for key, num in sorted(num_local.items())
        }
        if _same_on_all_ranks([(key, len(values)) for key, values in local.items()]):
            if local:
                means = torch.from_numpy(np.concatenate(list(local.values())))
                all_reduce(means, 'mean')
                parts = means.split([len(values) for values in local.values()])
                for values, part in zip(local.values(), parts, strict=True):
                    values[:] = part.numpy()  # a view of the history
            return
        all_ranks = all_gather_object(local)
        for key, values in local.items():
            same_key = [other[key] for other in all_ranks if key in other]
            if len(same_key) == len(all_ranks) and len({len(other) for other in same_key}) == 1:
                values[:] = np.mean(same_key, axis=0)

    def get_scalar(self, key: str) -> HistoryBuffer:
        """Wait for the device only if `key` is pending: timers read their own keys each step."""
        if self.pending.get(key):
            self.flush()
        if key not in self._log_scalars:
            raise KeyError(f'{key} was never logged')
        return self._log_scalars[key]

    @property
    def log_scalars(self) -> dict[str, HistoryBuffer]:
        self.flush()
        return self._log_scalars

    def state_dict(self) -> dict:
        self.flush()
        return super().state_dict()


def _same_on_all_ranks(value: object) -> bool:
    """Return whether all ranks pass the same value, by a hash; all ranks call it."""
    digest = int.from_bytes(blake2b(repr(value).encode(), digest_size=7).digest(), 'big')
    extremes = torch.tensor([digest, -digest])
    all_reduce(extremes, 'max')
    return extremes.tolist() == [digest, -digest]

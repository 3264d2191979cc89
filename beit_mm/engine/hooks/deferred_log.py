"""Logged values stay on the device until they are read, and are means over ranks: no iteration waits for the one before."""

from collections import Counter, defaultdict

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_world_size
from mmengine.hooks import Hook, LoggerHook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import Runner
from torch import Tensor

from ...registry import HOOKS

MOST = 4096  # values kept, should nobody ever read


class DeferredHub(MessageHub):
    """MessageHub that calls no `.item()` when it is given a tensor, but reads all tensors at once when it is read itself.

    A tensor is cloned on its device: the caller may overwrite it (CUDA graphs and in-place updates do).
    """

    def update_scalar(
        self, key: str, value: Tensor | float, count: int = 1, resumed: bool = True
    ) -> None:
        self._set_resumed_keys(key, resumed)
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise ValueError(
                    f'{key} has {value.numel()} values, a logged one has to be a single number'
                )
            self.pending.append((key, value.detach().reshape(()).clone(), count))
            self.tensors.add(key)
            if len(self.pending) >= MOST:
                self.flush()
        else:
            if any(key == waiting for waiting, _, _ in self.pending):
                self.flush()
            self._note(key, self._get_valid_value(value), count)

    def get_scalar(self, key: str) -> HistoryBuffer:
        """Wait for the device only if a tensor of `key` is pending: timers read their own keys each iteration."""
        if any(key == waiting for waiting, _, _ in self.pending):
            self.flush()
        if key not in self.__dict__['_log_scalars']:
            raise KeyError(
                f'{key} is not found in Messagehub.log_buffers: instance name is: {self.instance_name}'
            )
        return self.__dict__['_log_scalars'][key]

    @property
    def _log_scalars(self) -> dict:
        self.flush()
        return self.__dict__['_log_scalars']

    @_log_scalars.setter
    def _log_scalars(self, scalars: dict) -> None:
        self.__dict__['_log_scalars'] = scalars

    def flush(self) -> None:
        """Read all pending tensors: the one wait for the device."""
        pending, self.pending = self.pending, []
        places = defaultdict(list)
        for place, (_, value, _) in enumerate(pending):
            places[value.device, value.dtype].append(place)
        numbers = {}
        for group in places.values():
            numbers.update(
                zip(
                    group, torch.stack([pending[place][1] for place in group]).tolist(), strict=True
                )
            )
        for place, (key, _, count) in enumerate(pending):
            self._note(key, numbers[place], count)

    def average(self) -> None:
        """Replace what tensors gave since the last call by its mean over ranks. All ranks have to call it.

        A key of which ranks do not have equally many values keeps each rank's own.
        """
        self.flush()
        scalars, since = self.__dict__['_log_scalars'], self.since
        self.since = Counter()
        if get_world_size() == 1:
            return
        own = {
            key: scalars[key].data[0][-count:]
            for key, count in since.items()
            if key in self.tensors
        }
        everyone = all_gather_object(own)
        for key, values in own.items():
            found = [other[key] for other in everyone if len(other.get(key, ())) == len(values)]
            if len(found) == len(everyone):
                (history, counts), longest = scalars[key].data, scalars[key].max_length
                scalars[key] = HistoryBuffer(
                    np.append(history[: -len(values)], np.mean(found, 0)), counts, longest
                )

    def _note(self, key: str, value: float, count: int) -> None:
        scalars = self.__dict__['_log_scalars']
        self.since[key] += 1
        if key in scalars:
            scalars[key].update(value, count)
        else:
            scalars[key] = HistoryBuffer([value], [count])


@HOOKS.register_module()
class DeferredLog(Hook):
    """Hook that logs without waiting for the device, and logs means over ranks.

    mmengine reads each loss and the gradient's norm in each iteration, and logs those of rank 0. `tools/train.py` adds this
    hook to every run.
    """

    priority = 'NORMAL'  # after RuntimeInfoHook, which gives the values, and before LoggerHook, which reads them

    def before_run(self, runner: Runner) -> None:
        self.interval = next(
            (hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)), 50
        )
        defer(runner.message_hub)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        # LoggerHook logs at these iterations on rank 0; all ranks reach them.
        if self.every_n_inner_iters(batch_idx, self.interval) or self.end_of_epoch(
            runner.train_dataloader, batch_idx
        ):
            runner.message_hub.average()


def defer(hub: MessageHub) -> None:
    """Exchange the class of `hub` in place: others hold the same object."""
    if not isinstance(hub, DeferredHub):
        hub.pending, hub.tensors, hub.since = [], set(), Counter()
        hub.__class__ = DeferredHub

"""Logged values stay on the device until someone reads them, so that no iteration waits for the one before."""

from collections import defaultdict

import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import Runner
from torch import Tensor

from ..registry import HOOKS

MOST = 4096  # values kept, should nobody ever read


class DeferredHub(MessageHub):
    """A MessageHub that calls no `.item()` when it is told a tensor, but copies all of them at once when it is read."""

    def update_scalar(self, key: str, value: Tensor | float, count: int = 1, resumed: bool = True) -> None:
        self._set_resumed_keys(key, resumed)
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise ValueError(f'{key} has {value.numel()} values, a logged one has to be a single number')
            self.pending.append((key, value.detach().reshape(()), count))
            if len(self.pending) >= MOST:
                self.flush()
        else:
            if any(key == waiting for waiting, _, _ in self.pending):
                self.flush()
            self._note(key, self._get_valid_value(value), count)

    def get_scalar(self, key: str) -> HistoryBuffer:
        """Waits for the device only where `key` is among what it has yet to tell: timers read theirs each iteration."""
        if any(key == waiting for waiting, _, _ in self.pending):
            self.flush()
        if key not in self.__dict__['_log_scalars']:
            raise KeyError(f'{key} is not found in Messagehub.log_buffers: instance name is: {self.instance_name}')
        return self.__dict__['_log_scalars'][key]

    @property
    def _log_scalars(self) -> dict:
        self.flush()
        return self.__dict__['_log_scalars']

    @_log_scalars.setter
    def _log_scalars(self, scalars: dict) -> None:
        self.__dict__['_log_scalars'] = scalars

    def flush(self) -> None:
        """The one wait for the device."""
        pending, self.pending = self.pending, []
        places = defaultdict(list)
        for place, (_, value, _) in enumerate(pending):
            places[value.device, value.dtype].append(place)
        numbers = {}
        for group in places.values():
            numbers.update(zip(group, torch.stack([pending[place][1] for place in group]).tolist(), strict=True))
        for place, (key, _, count) in enumerate(pending):
            self._note(key, numbers[place], count)

    def _note(self, key: str, value: float, count: int) -> None:
        scalars = self.__dict__['_log_scalars']
        if key in scalars:
            scalars[key].update(value, count)
        else:
            scalars[key] = HistoryBuffer([value], [count])


@HOOKS.register_module()
class DeferredLog(Hook):
    """Every run that `tools/train.py` starts has one. mmengine reads each loss and the gradient's norm when it is logged."""

    priority = 'HIGHEST'

    def before_run(self, runner: Runner) -> None:
        defer(runner.message_hub)


def defer(hub: MessageHub) -> None:
    """Its class is exchanged in place: others hold the same object."""
    if not isinstance(hub, DeferredHub):
        hub.pending = []
        hub.__class__ = DeferredHub

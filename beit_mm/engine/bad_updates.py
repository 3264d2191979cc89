"""An update with a non-finite loss or gradient is left out on the device: weights, optimizer and statistics stay as they were."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn


@dataclass(frozen=True)
class Update:
    """Of one update, all on the device: `left_out` bool []; `counts` bool []: it is no mere overflow of the loss scale;
    `finite` bool [N], for each gradient, with the parameters' names."""

    left_out: Tensor
    counts: Tensor
    finite: Tensor
    names: list[str]


def leave_out_bad_updates(wrapper: OptimWrapper, model: nn.Module) -> list[Update]:
    """From now on `wrapper` (of any type) leaves out bad updates of `model`; gives the list to which it adds each update.

    Fused optimizers and loss scalers skip without waiting for the device; others wait once an update. All ranks of DDP
    leave out the same updates, since a bad loss makes its gradients NaN and those are summed over ranks.
    """
    # Its class is exchanged in place: mmengine builds wrappers late, and asks for OptimWrapper by isinstance.
    wrapper.__class__ = type(f'Guarded{type(wrapper).__name__}', (_Guarded, type(wrapper)), {})
    wrapper.names = {id(parameter): name for name, parameter in model.named_parameters()}
    wrapper.statistics = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    wrapper.before = wrapper.loss_finite = None
    wrapper.updates, wrapper.on_backward = [], lambda: None
    if vars(wrapper).pop(
        'step', None
    ):  # a scheduler has bound the former class's method, to count its calls
        _count_steps(wrapper)
    return wrapper.updates


def _count_steps(wrapper: OptimWrapper) -> None:
    """Count the calls of `wrapper.step` as mmengine's schedulers do, which warn when the count is not kept."""
    guarded = wrapper.step

    def step(**kwargs) -> None:
        wrapper._global_step += 1
        guarded(**kwargs)

    step._with_counter = True
    wrapper.step = step


class _Guarded:
    """Comes before an OptimWrapper's class."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        if self.before is None:  # the first forward pass of an update
            self.before = [buffer.clone() for buffer in self.statistics]
        with super().optim_context(model):
            yield

    def backward(self, loss: Tensor, **kwargs) -> None:
        self.on_backward()
        finite = loss.detach().isfinite().all()
        self.loss_finite = finite if self.loss_finite is None else self.loss_finite & finite
        # The gradients of an infinite loss may be finite, and a loss may be bad on one rank alone.
        super().backward(loss * torch.where(finite, 1.0, math.nan), **kwargs)

    def _clip_grad(self) -> None:
        """mmengine's, which takes `float()` of the norm and so waits for the device; `DeferredLog` does not."""
        groups = self.optimizer.param_groups
        parameters = [
            p for group in groups for p in group['params'] if p.requires_grad and p.grad is not None
        ]
        norm = self.clip_func(parameters, **self.clip_grad_kwargs) if parameters else None
        if norm is not None:
            self.message_hub.update_scalar(f'train/{self.grad_name}', norm)

    def step(self, **kwargs) -> None:
        groups = self.optimizer.param_groups
        parameters = [
            p for group in groups for p in group['params'] if p.grad is not None and p.grad.numel()
        ]
        if not parameters:
            return super().step(**kwargs)
        finite = torch.stack(torch._foreach_norm([p.grad for p in parameters], math.inf)).isfinite()
        left_out = counts = ~finite.all()
        scaler = getattr(self, 'loss_scaler', None)
        if scaler is not None and scaler.is_enabled():
            if (
                self.loss_finite is not None
            ):  # above 1 the scale may be too high, which the scaler mends
                counts = left_out & (~self.loss_finite | (scaler._get_scale_async() <= 1))
            super().step(**kwargs)
        elif all(group.get('fused') for group in groups):
            self.optimizer.found_inf = left_out.float()
            try:
                super().step(**kwargs)
            finally:
                del self.optimizer.found_inf
        elif not left_out:
            super().step(**kwargs)
        with torch.no_grad():
            for buffer, before in zip(self.statistics, self.before or self.statistics, strict=True):
                buffer.copy_(torch.where(left_out, before, buffer))
        self.updates.append(
            Update(left_out, counts, finite, [self.names.get(id(p), '?') for p in parameters])
        )
        self.before = self.loss_finite = None

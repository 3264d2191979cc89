"""Skip optimizer steps whose loss or gradient is not finite."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn


@dataclass(frozen=True)
class Step:
    """Record of one optimizer step; the tensors stay on the device.

    `skipped` bool []: the step was not finite. `counts` bool []: the cause is not just a loss scale
    that is too high. `finite` bool [N]: whether the gradient of each of the N `names` is finite.
    """

    skipped: Tensor
    counts: Tensor
    finite: Tensor
    names: list[str]


def skip_nonfinite_steps(wrapper: OptimWrapper, model: nn.Module) -> list[Step]:
    """Make `wrapper` skip non-finite steps of `model`; return its list of all steps.

    A skipped step leaves weights, optimizer state and running statistics unchanged. Fused
    optimizers and loss scalers skip without a device synchronization, others need one per step. All
    ranks of DDP skip the same steps: a non-finite loss makes its gradients NaN, and gradients are
    summed over ranks.
    """
    # Replaces the class in place: mmengine builds wrappers late and tests isinstance(OptimWrapper).
    kind = type(wrapper)
    wrapper.__class__ = type(f'Skipping{kind.__name__}', (_SkippingWrapper, kind), {})
    wrapper.names = {id(parameter): name for name, parameter in model.named_parameters()}
    wrapper.statistics = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    wrapper.statistics_before = wrapper.loss_finite = None
    wrapper.steps, wrapper.on_backward = [], lambda: None
    if vars(wrapper).pop('step', None):  # a scheduler has wrapped the method of the former class
        _count_steps(wrapper)
    return wrapper.steps


def _count_steps(wrapper: OptimWrapper) -> None:
    """Count calls of `wrapper.step` as mmengine's schedulers do, which warn without that count."""
    uncounted = wrapper.step

    def step(**kwargs) -> None:
        wrapper._global_step += 1
        uncounted(**kwargs)

    step._with_counter = True
    wrapper.step = step


class _SkippingWrapper:
    """Mixin before the class of an OptimWrapper."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        if self.statistics_before is None:  # the first forward pass of a step
            self.statistics_before = [buffer.clone() for buffer in self.statistics]
        with super().optim_context(model):
            yield

    def backward(self, loss: Tensor, **kwargs) -> None:
        self.on_backward()
        finite = loss.detach().isfinite().all()
        self.loss_finite = finite if self.loss_finite is None else self.loss_finite & finite
        # An infinite loss can have finite gradients, and may occur on one rank only.
        super().backward(loss * torch.where(finite, 1.0, math.nan), **kwargs)

    def _clip_grad(self) -> None:
        """Clip as mmengine does, but log the norm without `float()`, which waits for the device."""
        groups = self.optimizer.param_groups
        parameters = [p for group in groups for p in group['params'] if p.requires_grad]
        parameters = [p for p in parameters if p.grad is not None]
        norm = self.clip_func(parameters, **self.clip_grad_kwargs) if parameters else None
        if norm is not None:
            self.message_hub.update_scalar(f'train/{self.grad_name}', norm)

    def step(self, **kwargs) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group['params']]
        parameters = [p for p in parameters if p.grad is not None and p.grad.numel()]
        if not parameters:
            return super().step(**kwargs)

        norms = torch._foreach_norm([p.grad for p in parameters], math.inf)
        finite = torch.stack(norms).isfinite()
        skipped = ~finite.all()
        counts = self._counts(skipped)
        self._step_if_finite(skipped, kwargs)
        self._restore_statistics(skipped)
        names = [self.names.get(id(p), '?') for p in parameters]
        self.steps.append(Step(skipped, counts, finite, names))
        self.statistics_before = self.loss_finite = None

    def _has_scaler(self) -> bool:
        scaler = getattr(self, 'loss_scaler', None)
        return scaler is not None and scaler.is_enabled()

    def _counts(self, skipped: Tensor) -> Tensor:
        """Return whether a skip counts: above 1, the scaler lowers a scale that is too high."""
        if not self._has_scaler() or self.loss_finite is None:
            return skipped
        return skipped & (~self.loss_finite | (self.loss_scaler._get_scale_async() <= 1))

    def _step_if_finite(self, skipped: Tensor, kwargs: dict) -> None:
        if self._has_scaler():
            super().step(**kwargs)
        elif all(group.get('fused') for group in self.optimizer.param_groups):
            self.optimizer.found_inf = skipped.float()
            try:
                super().step(**kwargs)
            finally:
                del self.optimizer.found_inf
        elif not skipped:
            super().step(**kwargs)

    def _restore_statistics(self, skipped: Tensor) -> None:
        if self.statistics_before is None:
            return
        with torch.no_grad():
            for buffer, before in zip(self.statistics, self.statistics_before, strict=True):
                buffer.copy_(torch.where(skipped, before, buffer))

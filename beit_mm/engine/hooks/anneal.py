"""Schedules of numbers that are not learning rates."""

import math

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...registry import HOOKS
from ...utils.arguments import check_integers, check_numbers
from ...utils.unwrap_model import unwrap_model


@HOOKS.register_module()
class Anneal(Hook):
    """Hook that sets a number of the model before each iteration, along half a cosine.

    It reaches `end` at iteration `iters`, by default at the end of training. The value depends on
    the iteration only, so resume is exact. DALL-E (app. A.2) trains with
    `Anneal('beta', 0, 6.6, 5000)` and `Anneal('temperature', 1, 1 / 16, 150000)`.

    Raises ValueError before training if the model has no such number.
    """

    def __init__(self, attribute: str, start: float, end: float, iters: int | None = None):
        if iters is not None:
            check_integers(1, iters=iters)
        check_numbers(start=start, end=end)
        self.attribute, self.start, self.end, self.iters = attribute, start, end, iters

    def before_train(self, runner: Runner) -> None:
        model = unwrap_model(runner)
        if not isinstance(getattr(model, str(self.attribute), None), int | float):
            raise ValueError(
                f'Anneal: {type(model).__name__} has no number {self.attribute!r}. Correct '
                'attribute, or run without the hook: --cfg-options custom_hooks=[]'
            )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        value = cosine(self.start, self.end, self.iters or runner.max_iters, runner.iter)
        setattr(unwrap_model(runner), self.attribute, value)


def cosine(start: float, end: float, iters: int, iteration: int) -> float:
    """Return half a cosine from `start` at iteration 0 to `end` at `iters`, constant afterwards."""
    progress = min(iteration / iters, 1.0)
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2

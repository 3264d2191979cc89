"""Schedules of numbers that are no learning rates: the tokenizer's KL weight β and Gumbel-softmax temperature τ."""

import math

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...registry import HOOKS
from ...utils.arguments import check_integers, check_numbers
from ...utils.unwrap_model import unwrap_model


def cosine(start: float, end: float, iters: int, iteration: int) -> float:
    """Half a cosine from `start` at iteration 0 to `end` at `iters`, constant afterwards."""
    progress = min(iteration / iters, 1.0)
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


@HOOKS.register_module()
class Anneal(Hook):
    """Set an attribute of the model before each iteration, by half a cosine; a function of the iteration, so resume is exact.

    DALL-E's (app. A.2): `Anneal('beta', 0, 6.6, 5000)`, `Anneal('temperature', 1, 1 / 16, 150000)`.
    Raises ValueError when the model has no such number.
    """

    def __init__(self, attribute: str, start: float, end: float, iters: int):
        check_integers(1, iters=iters)
        check_numbers(start=start, end=end)
        if not isinstance(attribute, str):
            raise TypeError(f'attribute={attribute!r}: give the name of a number of the model')
        self.attribute, self.start, self.end, self.iters = attribute, start, end, iters

    def before_train(self, runner: Runner) -> None:
        model = unwrap_model(runner)
        if not isinstance(getattr(model, self.attribute, None), int | float):
            raise ValueError(f'{type(model).__name__} has no number {self.attribute!r} to anneal')

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        setattr(
            unwrap_model(runner),
            self.attribute,
            cosine(self.start, self.end, self.iters, runner.iter),
        )

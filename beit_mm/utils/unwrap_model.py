"""The model of a run, without what wraps it."""

from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from torch import nn


def unwrap_model(runner: Runner) -> nn.Module:
    """Behind DDP, or the vote of several scales (test-time augmentation)."""
    wrapped = is_model_wrapper(runner.model) or isinstance(runner.model, BaseTTAModel)
    return runner.model.module if wrapped else runner.model

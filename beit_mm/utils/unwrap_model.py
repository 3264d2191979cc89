"""Access to the model of a run."""

from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from torch import nn


def unwrap_model(runner: Runner) -> nn.Module:
    """Return the model of a run without its wrapper: DDP or test-time augmentation."""
    is_wrapped = is_model_wrapper(runner.model) or isinstance(runner.model, BaseTTAModel)
    return runner.model.module if is_wrapped else runner.model

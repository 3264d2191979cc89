"""Is a config right? Checks before training, and the comparison with the paper's recipes."""

from ..utils import packages

packages.require('torch', 'mmengine', 'mmcv')

"""Is a config right? Checks before training, and the comparison with the paper's recipes."""

from .. import compat

compat.require('torch', 'mmengine', 'mmcv')

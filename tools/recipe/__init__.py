"""The chain runner of `tools/recipe.py`."""

from beit_mm import compat

compat.require('torch', 'mmengine', 'mmcv')

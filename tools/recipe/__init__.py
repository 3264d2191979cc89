"""The chain runner of `tools/recipe.py`."""

from beit_mm.utils import packages

packages.require('torch', 'mmengine', 'mmcv')

"""Recipes: a chain of runs (`chain`), and whether a config is the paper's (`check`)."""

from beit_mm import compat

compat.require('torch', 'mmengine', 'mmcv')

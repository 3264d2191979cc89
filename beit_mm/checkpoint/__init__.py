"""Weights: read a checkpoint of any project safely, fit it to a model, write it for another project."""

from .. import compat

compat.require('torch', 'mmengine', 'mmcv')

from .loading import load_backbone, load_model, load_tokenizer
from .parse import load, read_checkpoint

__all__ = ['load', 'load_backbone', 'load_model', 'load_tokenizer', 'read_checkpoint']

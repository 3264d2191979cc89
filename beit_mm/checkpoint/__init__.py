"""Checkpoints of all projects: read them safely, fit them to a model, write them for a project."""

from ..utils import packages

packages.require('torch', 'mmengine', 'mmcv')

from .loading import load_backbone, load_model, load_tokenizer
from .parse import load, read_checkpoint
from .teachers import load_teacher

__all__ = [
    'load',
    'load_backbone',
    'load_model',
    'load_teacher',
    'load_tokenizer',
    'read_checkpoint',
]

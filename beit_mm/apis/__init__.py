"""Load a trained model, run it on images, export it. Training does not import this package."""

from ..utils import packages

packages.require('torch', 'mmengine', 'mmcv')

from ..checkpoint.loading import load_model
from .inferencer import AttentionInferencer, FillInInferencer, TokenizerInferencer

__all__ = ['AttentionInferencer', 'FillInInferencer', 'TokenizerInferencer', 'load_model']

"""To use a trained model: load it, run it on images, export it. Nothing here is imported for training."""

from .. import compat

compat.require('torch', 'mmengine', 'mmcv')

from ..checkpoint.loading import load_model
from .inferencer import AttentionInferencer, FillInInferencer, TokenizerInferencer

__all__ = ['AttentionInferencer', 'FillInInferencer', 'TokenizerInferencer', 'load_model']

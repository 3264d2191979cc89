"""One door for weights: read a checkpoint safely, whoever wrote it; fit it to a model; write it for another project."""

from .. import compat

compat.require('torch', 'mmengine', 'mmcv')

from .fit import load_backbone, load_tokenizer
from .model_loading import load_model
from .weights import load, load_with_meta

__all__ = ['load', 'load_backbone', 'load_model', 'load_tokenizer', 'load_with_meta']

"""BEiT (https://arxiv.org/abs/2106.08254) for OpenMMLab.

Tokenizer, masked image modeling, classification, segmentation.
"""

import sys

from .utils import model_hub

__version__ = '0.2.0'

model_hub.register_models()  # to mmpretrain, of which nothing is imported here

# As stderr does: a terminal that lacks a character gets its escape, and no tool ends because of it.
if hasattr(sys.stdout, 'reconfigure') and str(sys.stdout.encoding).lower() not in ('utf-8', 'utf8'):
    sys.stdout.reconfigure(errors='backslashreplace')

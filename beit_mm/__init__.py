"""BEiT (https://arxiv.org/abs/2106.08254) for OpenMMLab.

Tokenizer, masked image modeling, classification, segmentation.
"""

import sys

from .utils import model_hub

__version__ = '0.2.0'

model_hub.register_models()  # for mmpretrain, which is not imported here

# Like stderr: print the escape of a character that the terminal lacks instead of raising an error.
if hasattr(sys.stdout, 'reconfigure') and str(sys.stdout.encoding).lower() not in ('utf-8', 'utf8'):
    sys.stdout.reconfigure(errors='backslashreplace')

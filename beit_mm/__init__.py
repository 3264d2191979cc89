"""BEiT (https://arxiv.org/abs/2106.08254) for OpenMMLab.

Tokenizer, masked image modeling, classification, segmentation.
"""

import sys

from .utils import model_hub, own_configs

__version__ = '0.2.0'

# For mmpretrain and mmengine, which are not imported here.
model_hub.register_models()
own_configs.register_configs()

# Like stderr: print the escape of a character that the terminal lacks instead of raising an error.
if hasattr(sys.stdout, 'reconfigure') and str(sys.stdout.encoding).lower() not in ('utf-8', 'utf8'):
    sys.stdout.reconfigure(errors='backslashreplace')

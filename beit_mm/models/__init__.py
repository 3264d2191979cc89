from importlib.util import find_spec

from .beit import BEiT
from .dvae import DiscreteVAE
from .mim_head import MIMHead
from .pretrainer import BEiTPretrainer, ImageDataPreprocessor, MIMDataPreprocessor
from .targets import PixelTarget, TokenTarget

__all__ = [
    'BEiT',
    'BEiTPretrainer',
    'DiscreteVAE',
    'ImageDataPreprocessor',
    'MIMDataPreprocessor',
    'MIMHead',
    'PixelTarget',
    'TokenTarget',
]

if find_spec('mmseg'):  # who only classifies needs no mmseg
    from .setr_pup_head import SETRPUPHead

    __all__ += ['SETRPUPHead']

from .. import compat
from ..utils import packages

packages.require('torch', 'mmengine', 'mmcv')  # the registries hide what beit_mm.registry raises

from .beit import BEiT
from .dvae import DiscreteVAE
from .mim_head import MIMHead
from .mim_preprocessor import MIMDataPreprocessor
from .patchwise import PatchwiseBEiT
from .pretrainer import BEiTPretrainer
from .targets import PixelTarget, TokenTarget
from .teacher import Teacher
from .tokenizer import Tokenizer
from .vqkd import VQKD

__all__ = [
    'VQKD',
    'BEiT',
    'BEiTPretrainer',
    'DiscreteVAE',
    'MIMDataPreprocessor',
    'MIMHead',
    'PatchwiseBEiT',
    'PixelTarget',
    'Teacher',
    'TokenTarget',
    'Tokenizer',
]

if packages.is_installed('mmseg'):  # classification and pre-training do not need mmseg
    compat.fix_class_weights()
    from .setr_pup_head import SETRPUPHead
    from .sliding import EncoderDecoder
    from .uper_head import UPerHead

    __all__ += ['EncoderDecoder', 'SETRPUPHead', 'UPerHead']
else:

    def __getattr__(name: str):
        if name in ('EncoderDecoder', 'SETRPUPHead', 'UPerHead'):
            packages.require('mmseg')
        raise AttributeError(f'module {__name__} has no attribute {name}')

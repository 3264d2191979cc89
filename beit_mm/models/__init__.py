from .. import compat

compat.require(
    'torch', 'mmengine', 'mmcv'
)  # here, since the registries swallow what beit_mm.registry raises

from .beit import BEiT
from .dvae import DiscreteVAE
from .mim_head import MIMHead
from .patchwise import PatchwiseBEiT
from .pretrainer import BEiTPretrainer, MIMDataPreprocessor
from .targets import PixelTarget, TokenTarget

__all__ = [
    'BEiT',
    'BEiTPretrainer',
    'DiscreteVAE',
    'MIMDataPreprocessor',
    'MIMHead',
    'PatchwiseBEiT',
    'PixelTarget',
    'TokenTarget',
]

if compat.installed('mmseg'):  # who only classifies needs no mmseg
    compat.weigh_classes_beside_ignored_pixels()
    from .setr_pup_head import SETRPUPHead
    from .sliding import EncoderDecoder
    from .uper_head import UPerHead

    __all__ += ['EncoderDecoder', 'SETRPUPHead', 'UPerHead']
else:

    def __getattr__(name: str):
        if name in ('EncoderDecoder', 'SETRPUPHead', 'UPerHead'):
            compat.require('mmseg')
        raise AttributeError(f'module {__name__} has no attribute {name}')

from .anneal import Anneal
from .init_codebook import InitCodebook
from .layer_decay import LayerDecayConstructor
from .metrics import MIMMetric, TokenizerMetric

__all__ = ['Anneal', 'InitCodebook', 'LayerDecayConstructor', 'MIMMetric', 'TokenizerMetric']

from .anneal import Anneal
from .layer_decay import LayerDecayConstructor
from .metrics import MIMMetric, TokenizerMetric

__all__ = ['Anneal', 'LayerDecayConstructor', 'MIMMetric', 'TokenizerMetric']

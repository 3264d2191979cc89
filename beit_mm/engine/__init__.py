from .anneal import Anneal
from .any_checkpoint import AnyCheckpoint
from .init_codebook import InitCodebook
from .layer_decay import LayerDecayConstructor
from .metrics import MIMMetric, TokenizerMetric
from .watchdog import Watchdog

__all__ = [
    'Anneal',
    'AnyCheckpoint',
    'InitCodebook',
    'LayerDecayConstructor',
    'MIMMetric',
    'TokenizerMetric',
    'Watchdog',
]

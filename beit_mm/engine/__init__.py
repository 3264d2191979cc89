from .anneal import Anneal
from .any_checkpoint import AnyCheckpoint
from .exact_resume import ExactResume
from .init_codebook import InitCodebook
from .layer_decay import LayerDecayConstructor
from .metrics import MIMMetric, TokenizerMetric
from .randomness import KeyedRandomness

__all__ = [
    'Anneal',
    'AnyCheckpoint',
    'ExactResume',
    'InitCodebook',
    'KeyedRandomness',
    'LayerDecayConstructor',
    'MIMMetric',
    'TokenizerMetric',
]

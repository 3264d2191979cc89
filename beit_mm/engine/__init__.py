from .anneal import Anneal
from .any_checkpoint import AnyCheckpoint
from .atomic_checkpoint import AtomicCheckpointHook
from .init_codebook import InitCodebook
from .layer_decay import LayerDecayConstructor
from .metrics import MIMMetric, TokenizerMetric
from .stop_on_signal import StopOnSignal

__all__ = [
    'Anneal',
    'AnyCheckpoint',
    'AtomicCheckpointHook',
    'InitCodebook',
    'LayerDecayConstructor',
    'MIMMetric',
    'StopOnSignal',
    'TokenizerMetric',
]

from .. import compat

compat.require('torch', 'mmengine', 'mmcv')

from .checkpointing import AtomicCheckpointHook
from .determinism import ExactResume, KeyedRandomness
from .hooks import (
    Anneal,
    CachedTokens,
    CompileBlocks,
    ConvertCheckpoint,
    DeferredLog,
    InitCodebook,
    Probe,
    Throughput,
)
from .metrics import MIMMetric, TokenizerMetric
from .optim import LayerDecayConstructor
from .signals import StopOnSignal
from .watchdog import Watchdog

__all__ = [
    'Anneal',
    'AtomicCheckpointHook',
    'CachedTokens',
    'CompileBlocks',
    'ConvertCheckpoint',
    'DeferredLog',
    'ExactResume',
    'InitCodebook',
    'KeyedRandomness',
    'LayerDecayConstructor',
    'MIMMetric',
    'Probe',
    'StopOnSignal',
    'Throughput',
    'TokenizerMetric',
    'Watchdog',
]

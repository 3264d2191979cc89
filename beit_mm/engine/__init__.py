from ..utils import packages

packages.require('torch', 'mmengine', 'mmcv')

from .checkpointing import AtomicCheckpointHook
from .determinism import ExactResume, KeyedRandomness
from .hooks.anneal import Anneal
from .hooks.cached_tokens import CachedTokens
from .hooks.compile_blocks import CompileBlocks
from .hooks.convert_checkpoint import ConvertCheckpoint
from .hooks.deferred_log import DeferredLog
from .hooks.init_codebook import InitCodebook
from .hooks.probe import Probe
from .hooks.throughput import Throughput
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

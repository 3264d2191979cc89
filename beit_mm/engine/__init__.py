from .. import compat

compat.require('torch', 'mmengine', 'mmcv')

from .anneal import Anneal
from .any_checkpoint import AnyCheckpoint
from .cached_tokens import CachedTokens
from .checkpointing import AtomicCheckpointHook
from .compile_blocks import CompileBlocks
from .deferred_log import DeferredLog
from .determinism import ExactResume, KeyedRandomness
from .init_codebook import InitCodebook
from .layer_decay import LayerDecayConstructor
from .metrics import MIMMetric, TokenizerMetric
from .probe import Probe
from .signals import StopOnSignal
from .throughput import Throughput
from .watchdog import Watchdog

__all__ = [
    'Anneal',
    'AnyCheckpoint',
    'AtomicCheckpointHook',
    'CachedTokens',
    'CompileBlocks',
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

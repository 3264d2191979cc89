from .. import compat

compat.require('torch', 'mmengine', 'mmcv')

from .anneal import Anneal
from .any_checkpoint import AnyCheckpoint
from .atomic_checkpoint import AtomicCheckpointHook
from .cached_tokens import CachedTokens
from .compile_blocks import CompileBlocks
from .deferred_log import DeferredLog
from .exact_resume import ExactResume
from .init_codebook import InitCodebook
from .layer_decay import LayerDecayConstructor
from .metrics import MIMMetric, TokenizerMetric
from .probe import Probe
from .randomness import KeyedRandomness
from .stop_on_signal import StopOnSignal
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

from .anneal import Anneal
from .cached_tokens import CachedTokens
from .compile_blocks import CompileBlocks
from .convert_checkpoint import ConvertCheckpoint
from .deferred_log import DeferredLog
from .init_codebook import InitCodebook
from .probe import Probe
from .throughput import Throughput

__all__ = [
    'Anneal',
    'CachedTokens',
    'CompileBlocks',
    'ConvertCheckpoint',
    'DeferredLog',
    'InitCodebook',
    'Probe',
    'Throughput',
]

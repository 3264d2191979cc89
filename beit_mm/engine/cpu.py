"""Train without a GPU, which mmengine needs for mixed precision, SyncBN and several ranks."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper

from ..registry import OPTIM_WRAPPERS
from ..utils.config_tree import get, kind, nodes

_SYNC_BN = ('SyncBN', 'MMSyncBN', 'SyncBatchNorm')


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """OptimWrapper for mixed precision on a CPU: bfloat16 autocast, which needs no loss scale."""

    @contextmanager
    def optim_context(self, model: torch.nn.Module) -> Iterator[None]:
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


def has_bfloat16() -> bool:
    """Return whether this CPU multiplies bfloat16 (AVX512, AMX, ARM) and does not just emulate it.

    Emulation is about a hundred times slower than float32.
    """
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def adapt_to_cpu(cfg: Config) -> list[str]:
    """Replace settings that need a GPU, in place; return a description of each change."""
    changes = []
    optim = cfg.get('optim_wrapper')
    if kind(optim) == 'AmpOptimWrapper':
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            optim.pop(key, None)
        if has_bfloat16():
            optim.type = 'beit_mm.CPUAmpOptimWrapper'
            changes.append('mixed precision is bfloat16 without a loss scale')
        else:
            optim.type = 'OptimWrapper'
            changes.append(
                'full precision: this CPU has no bfloat16 and would be many times slower'
            )
    if get(cfg.get('model'), 'target', 'dtype') == 'float16':
        cfg.model.target.dtype = 'bfloat16' if has_bfloat16() else 'float32'
        changes.append(f'visual tokens are computed in {cfg.model.target.dtype}')
    if cfg.get('launcher', 'none') != 'none':
        unused = cfg.get('find_unused_parameters', False)
        stock = dict(broadcast_buffers=False, find_unused_parameters=unused)
        cfg.model_wrapper_cfg = dict(cfg.get('model_wrapper_cfg') or stock, device_ids=None)
        changes.append(f'{os.environ.get("WORLD_SIZE")} processes communicate through gloo')
        sync_bn = [node for node in nodes(cfg.get('model')) if kind(node) in _SYNC_BN]
        for node in sync_bn:
            node['type'] = 'BN'
        if cfg.pop('sync_bn', None) or sync_bn:
            changes.append('SyncBN became BN, so each process computes its own statistics')
    return changes

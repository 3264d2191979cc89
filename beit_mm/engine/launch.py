"""Starting a run: the command line that OpenMMLab's users know, and several processes on a machine without a GPU.

The stock stack starts several processes with one GPU each only: it calls `torch.cuda.set_device`, hands DDP a device
id and leaves SyncBN in place, which refuses the CPU; AmpOptimWrapper asserts a GPU. `join` and `for_cpu` answer these.
"""

import os
import subprocess
import warnings
from argparse import ArgumentParser, Namespace
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from .. import compat
from ..data.guard import CheckSamples, list_readable
from ..registry import OPTIM_WRAPPERS
from ..utils.arguments import join_names
from ..utils.cfg_options import Options
from ..utils.config_tree import get
from .any_checkpoint import AnyCheckpoint
from .atomic_checkpoint import earlier_checkpoints
from .cached_tokens import CachedTokens
from .deferred_log import DeferredLog
from .exact_resume import ExactResume
from .randomness import KeyedRandomness
from .ranks import die_with_parent, restarted_store, resume_after_restart
from .watchdog import Watchdog

# What each launcher calls the variables that torch.distributed and DDP read.
_NAMES = dict(
    pytorch=dict(RANK='RANK', LOCAL_RANK='LOCAL_RANK', WORLD_SIZE='WORLD_SIZE'),
    slurm=dict(RANK='SLURM_PROCID', LOCAL_RANK='SLURM_LOCALID', WORLD_SIZE='SLURM_NTASKS'),
    mpi={
        name: f'OMPI_COMM_WORLD_{name.replace("WORLD_SIZE", "SIZE")}'
        for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE')
    },
)
_STARTED_BY = dict(
    pytorch='bash tools/dist_train.sh CONFIG N', slurm='bash tools/slurm_train.sh', mpi='mpirun'
)


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Mixed precision on a CPU: the forward pass under bfloat16 autocast, which needs no loss scale."""

    @contextmanager
    def optim_context(self, model: torch.nn.Module):
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


def parser(description: str) -> ArgumentParser:
    """The arguments that training and testing share; `read_config` takes what they parse to."""
    parser = ArgumentParser(description=description)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--work-dir', help='where logs and checkpoints go (default: work_dirs/NAME OF THE CONFIG)'
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help='mixed precision: float16 on a GPU, bfloat16 on a CPU that has it',
    )
    parser.add_argument('--launcher', choices=['none', *_NAMES], default='none')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Options,
        help='KEY=VALUE … over the config, e.g. train_cfg.max_iters=9',
    )
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, help='ignored: the environment tells'
    )
    return parser


def read_config(args: Namespace) -> Config:
    """Return the config file with `--cfg-options`, the launcher and a work_dir; sets what `set_ranks` sets."""
    if args.launcher != 'none':
        set_ranks(args.launcher)
        if int(os.environ['RANK']):  # rank 0 says the same
            warnings.filterwarnings('ignore', category=UserWarning)
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    cfg.launcher = args.launcher
    cfg.work_dir = (
        args.work_dir or cfg.get('work_dir') or str(Path('work_dirs', Path(args.config).stem))
    )
    return cfg


def build_runner(cfg: Config, every_key: bool = False) -> Runner:
    """A Runner for this machine; where it has no GPU, the process group is made here, and `cfg` changed by `for_cpu`.

    Its `load_from` takes a checkpoint of any project (`AnyCheckpoint`); with `every_key` one that lacks a key is an error.
    Whatever its config says, its randomness is keyed (`KeyedRandomness`) and it resumes exactly (`ExactResume`).

    Raises ImportError, with the pip command, when mmpretrain, mmseg or mmdet is named in the config and missing or too old.
    """
    hosts = [
        host
        for host in ('mmpretrain', 'mmseg', 'mmdet')
        if cfg.get('default_scope') == host or f"'{host}." in str(cfg.to_dict())
    ]
    compat.require('torch', 'mmengine', 'mmcv', *hosts)
    for key in ('env_cfg', 'randomness', 'log_processor'):  # mmengine's own default is a dict
        if cfg.get(key, {}) is None:
            cfg.pop(key)
    resume_after_restart(cfg)
    on_cpu = get_device() == 'cpu'
    if cfg.get('launcher', 'none') != 'none':
        join(
            cfg.launcher,
            'gloo' if on_cpu else None,
            cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout', 1800),
        )
    changes = for_cpu(cfg) if on_cpu else []
    keep_whole(cfg)
    log_locally(cfg)
    seed_data(cfg)
    for loader in filter(
        None, map(cfg.get, ('train_dataloader', 'val_dataloader', 'test_dataloader'))
    ):
        loader['dataset'] = list_readable(loader['dataset'])
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    runner.register_hook(AnyCheckpoint(strict=every_key))
    for hook in (
        KeyedRandomness(),
        ExactResume(),
        CheckSamples(),
        CachedTokens(),
        Watchdog(),
        DeferredLog(),
    ):
        if not any(isinstance(known, type(hook)) for known in runner.hooks):
            runner.register_hook(hook)
    for change in changes:
        runner.logger.info(f'No GPU here: {change}')
    return runner


def refuse_used_folder(cfg: Config) -> None:
    """Exit before a new run would overwrite and mix the checkpoints of an earlier run; a restart by torchrun resumes."""
    resume_after_restart(cfg)
    if cfg.get('resume') or not (found := earlier_checkpoints(cfg)):
        return
    raise SystemExit(
        f'error: {found[0].parent} holds checkpoints of an earlier run ({join_names([path.name for path in found])}), and a new run '
        'would overwrite some of them and mix its own with the rest. Continue the earlier run with --resume, choose '
        'another folder with --work-dir, remove the checkpoints, or start in this folder anyway with --force'
    )


def keep_whole(cfg: Config) -> None:
    """Puts AtomicCheckpointHook in the place of the stock one, which can lose every checkpoint, in place."""
    hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1)) | (
        cfg.get('default_hooks') or {}
    )  # mmengine's default
    if (
        hooks['checkpoint']
        and 'runner_type' not in cfg
        and hooks['checkpoint'].get('type') == 'CheckpointHook'
    ):
        cfg.default_hooks = hooks | dict(
            checkpoint=dict(hooks['checkpoint'], type='beit_mm.AtomicCheckpointHook')
        )


def log_locally(cfg: Config) -> None:
    """Add the local backend, which reports are made from, to a visualizer without it, in place.

    The name that mmseg's tools need is removed: two runs of a process would write into the first one's folder.
    """
    visualizer = cfg.get('visualizer')
    if not isinstance(visualizer, dict):
        return
    if visualizer.get('name') == 'visualizer':
        del visualizer['name']
    if 'LocalVisBackend' not in str(visualizer.get('vis_backends')):
        visualizer['vis_backends'] = [
            dict(type='LocalVisBackend'),
            *(visualizer.get('vis_backends') or ()),
        ]


def seed_data(cfg: Config) -> None:
    """Training draws by the run's seed, `randomness.seed`, where its SeededDataset has none of its own, in place.

    Validation keeps seed 0: its crops and masks are the same for all runs.
    """
    seed, dataset = (
        (cfg.get('randomness') or {}).get('seed'),
        (cfg.get('train_dataloader') or {}).get('dataset') or {},
    )
    if seed is not None and str(dataset.get('type')).rpartition('.')[2] == 'SeededDataset':
        dataset.setdefault('seed', seed)


def set_ranks(launcher: str) -> None:
    """Set RANK, LOCAL_RANK, WORLD_SIZE and the address of the process group from the launcher's own variables.

    Raises ValueError when these are missing. A Slurm step gets a port of its own unless MASTER_PORT is set, since several
    jobs may share a node.
    """
    slurm = launcher == 'slurm'
    if slurm and 'SLURM_NODELIST' in os.environ and 'MASTER_ADDR' not in os.environ:
        nodes = subprocess.run(
            ['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']],
            check=True,
            capture_output=True,
        )
        os.environ['MASTER_ADDR'] = nodes.stdout.decode().split()[0]
    missing = [
        theirs for theirs in (*_NAMES[launcher].values(), 'MASTER_ADDR') if theirs not in os.environ
    ]
    if missing:
        raise ValueError(
            f'--launcher {launcher} needs {", ".join(missing)} in the environment: start with '
            f'`{_STARTED_BY[launcher]}`, or without --launcher for one process'
        )
    os.environ.update({ours: os.environ[theirs] for ours, theirs in _NAMES[launcher].items()})
    job, step = (int(os.environ.get(name, 0)) for name in ('SLURM_JOB_ID', 'SLURM_STEP_ID'))
    os.environ.setdefault(
        'MASTER_PORT', str(29_500 - (16 * job + step) % 9_000 if slurm else 29_500)
    )


def join(launcher: str, backend: str | None = None, timeout: float = 1800) -> None:
    """Call `set_ranks`, and join the process group if a backend is given. `timeout` is in seconds."""
    die_with_parent()
    set_ranks(launcher)
    if restarted_store() and not backend:
        torch.cuda.set_device(
            int(os.environ['LOCAL_RANK'])
        )  # as mmengine does, which finds the group made
        backend = 'nccl'
    if backend and not torch.distributed.is_initialized():
        torch.distributed.init_process_group(
            backend, timeout=timedelta(seconds=timeout), **restarted_store()
        )


def leave() -> None:
    """All processes wait for each other and leave the group. Without it one that exits first can make gloo abort another."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 (AVX512, AMX, ARM). One without imitates it a hundred times slower than f32."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def for_cpu(cfg: Config) -> list[str]:
    """Changes what needs a GPU into what runs without, in place; says each change in words."""
    changes = []
    optim = cfg.get('optim_wrapper')
    if optim and str(optim.get('type')).endswith('AmpOptimWrapper') and 'CPU' not in optim.type:
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            optim.pop(key, None)
        optim.type = 'beit_mm.CPUAmpOptimWrapper' if has_bfloat16() else 'OptimWrapper'
        slow = 'full precision, since this CPU has no bfloat16 and would take many times as long'
        changes.append(
            'mixed precision is bfloat16 without a loss scale' if has_bfloat16() else slow
        )
    if get(cfg.get('model'), 'target', 'dtype') == 'float16':
        cfg.model.target.dtype = 'bfloat16' if has_bfloat16() else 'float32'
        changes.append(f'visual tokens are read in {cfg.model.target.dtype}')
    if cfg.get('launcher', 'none') != 'none':
        stock = dict(
            broadcast_buffers=False, find_unused_parameters=cfg.get('find_unused_parameters', False)
        )
        cfg.model_wrapper_cfg = dict(cfg.get('model_wrapper_cfg') or stock, device_ids=None)
        changes.append(f'{os.environ.get("WORLD_SIZE")} processes talk through gloo')
        if any([cfg.pop('sync_bn', None), _replace_sync_bn(cfg.get('model'))]):
            changes.append('SyncBN became BN, whose statistics are those of one process')
    return changes


def _replace_sync_bn(node: object) -> int:
    """Makes every SyncBN in a nested config a BN; returns how many there were."""
    if isinstance(node, dict):
        hit = isinstance(node.get('type'), str) and node['type'].split('.')[-1] in (
            'SyncBN',
            'MMSyncBN',
            'SyncBatchNorm',
        )
        if hit:
            node['type'] = 'BN'
        return hit + sum(map(_replace_sync_bn, node.values()))
    return sum(map(_replace_sync_bn, node)) if isinstance(node, (list, tuple)) else 0

"""The processes of a distributed run: start, restart and end them together."""

import os
import signal
import subprocess
from datetime import timedelta

import torch
from mmengine.config import Config
from mmengine.logging import print_log

from ..utils.config_tree import get
from ..utils.installation import find_file
from ..utils.processes import end_with_parent
from .find_checkpoint import list_checkpoints

# Each launcher's names for the variables that torch.distributed and DDP read.
LAUNCHERS = dict(
    pytorch=dict(RANK='RANK', LOCAL_RANK='LOCAL_RANK', WORLD_SIZE='WORLD_SIZE'),
    slurm=dict(RANK='SLURM_PROCID', LOCAL_RANK='SLURM_LOCALID', WORLD_SIZE='SLURM_NTASKS'),
    mpi=dict(
        RANK='OMPI_COMM_WORLD_RANK',
        LOCAL_RANK='OMPI_COMM_WORLD_LOCAL_RANK',
        WORLD_SIZE='OMPI_COMM_WORLD_SIZE',
    ),
)
SCRIPTS = dict(pytorch='tools/dist_train.sh', slurm='tools/slurm_train.sh')
_PARENT = os.getppid()  # read at import: torchrun may die while this process starts


def set_ranks(launcher: str) -> None:
    """Set RANK, LOCAL_RANK, WORLD_SIZE and MASTER_ADDR, MASTER_PORT from the launcher's variables.

    Each Slurm step gets its own port unless MASTER_PORT is set: several jobs may share a node.
    Raises ValueError if the launcher's variables are missing.
    """
    slurm = launcher == 'slurm'
    if slurm and 'SLURM_NODELIST' in os.environ and 'MASTER_ADDR' not in os.environ:
        command = ['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']]
        nodes = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        os.environ['MASTER_ADDR'] = nodes.split()[0]

    names = LAUNCHERS[launcher]
    missing = [name for name in (*names.values(), 'MASTER_ADDR') if name not in os.environ]
    if missing:
        script = SCRIPTS.get(launcher)
        start = f'bash {find_file(script)}' if script else 'mpirun'
        raise ValueError(
            f'--launcher {launcher} needs {", ".join(missing)} in the environment: start with '
            f'`{start}`, or without --launcher for one process'
        )
    for name, launchers_name in names.items():
        os.environ[name] = os.environ[launchers_name]
    job, step = (int(os.environ.get(name, 0)) for name in ('SLURM_JOB_ID', 'SLURM_STEP_ID'))
    port = 29_500 - (16 * job + step) % 9_000 if slurm else 29_500
    os.environ.setdefault('MASTER_PORT', str(port))


def join(launcher: str, backend: str | None = None, timeout: float = 1800) -> None:
    """Join the process group of `launcher`, with collectives that time out after `timeout` seconds.

    Without a `backend`, mmengine creates the process group, except after a restart.
    """
    _end_with_torchrun()
    set_ranks(launcher)
    store = _store_after_restart()
    if store and not backend:
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']))  # as mmengine does
        backend = 'nccl'
    if backend and not torch.distributed.is_initialized():
        torch.distributed.init_process_group(backend, timeout=timedelta(seconds=timeout), **store)


def collective_timeout(cfg: Config) -> float:
    """Return the seconds after which a collective of this run fails."""
    return get(cfg.get('env_cfg'), 'dist_cfg', 'timeout') or 1800


def leave() -> None:
    """Leave the process group together: gloo may abort a rank if another one exits first."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def resume_after_restart(cfg: Config) -> None:
    """Make a run that torchrun restarted resume from its newest checkpoint, in place."""
    restart = _restart_count()
    if not restart:
        return
    if list_checkpoints(cfg):
        cfg.resume, cfg.load_from = True, None
    else:
        words = f'restart {restart}: {cfg.work_dir} has no checkpoint yet, so training starts anew'
        print_log(words, 'current', 30)


def _store_after_restart() -> dict:
    """Return the arguments of init_process_group after a restart by torchrun, else {}.

    The agent's store outlives its processes. Without a prefix, ranks would find the addresses of
    dead processes in it.
    """
    restart = _restart_count()
    if not restart or os.environ.get('TORCHELASTIC_USE_AGENT_STORE') != 'True':
        return {}
    address, port = os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])
    store = torch.distributed.TCPStore(address, port, is_master=False)
    store = torch.distributed.PrefixStore(f'restart {restart}', store)
    return dict(store=store, rank=int(os.environ['RANK']), world_size=int(os.environ['WORLD_SIZE']))


def _restart_count() -> int:
    return int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0))


def _end_with_torchrun() -> None:
    """End this process as soon as torchrun ends, if torchrun started it (Linux only)."""
    if 'TORCHELASTIC_RUN_ID' not in os.environ:
        return
    end_with_parent(signal.SIGKILL)
    if os.getppid() != _PARENT:  # it has ended before
        os._exit(1)

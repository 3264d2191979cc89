"""The commands of a stage, as pure functions: training and testing by each launcher, and a job of a Slurm queue."""

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

PREPARE = 'prepare'  # names the job that runs a recipe's `prepare` alone
LAUNCHERS = ('none', 'pytorch', 'slurm')


@dataclass(frozen=True)
class Launch:
    """How processes are started: one in here ('none'), `gpus` by torchrun ('pytorch') or by srun in `partition` ('slurm').

    Raises ValueError for several processes without a launcher, or Slurm without a partition.
    """

    launcher: str = 'none'
    gpus: int = 1
    partition: str | None = None

    def __post_init__(self):
        if self.launcher not in LAUNCHERS:
            raise ValueError(
                f'--launcher {self.launcher} is unknown: choose one of {", ".join(LAUNCHERS)}'
            )
        if self.gpus < 1:
            raise ValueError(f'--gpus {self.gpus}: at least one')
        if self.launcher == 'none' and self.gpus > 1:
            raise ValueError(f'--gpus {self.gpus} needs --launcher pytorch or slurm')
        if self.launcher == 'slurm' and not self.partition:
            raise ValueError('--launcher slurm needs --partition NAME')

    @property
    def per_node(self) -> int:
        return min(self.gpus, 8)


def train(
    launch: Launch,
    tools: Path,
    name: str,
    config: str,
    work_dir: Path,
    options: list[str],
    resume: bool,
) -> list[str]:
    """tools/train.py for the stage `name`; `options`: 'key=value', `resume`: from the newest checkpoint in `work_dir`."""
    last = [*(['--resume'] if resume else []), *_cfg_options(options)]
    if launch.launcher == 'slurm':
        return [*_slurm(launch, tools / 'slurm_train.sh', name), config, str(work_dir), *last]
    start = [sys.executable, str(tools / 'train.py'), config]
    if launch.launcher == 'pytorch':
        start = ['bash', str(tools / 'dist_train.sh'), config, str(launch.gpus)]
    return [*start, '--work-dir', str(work_dir), *last]


def test(
    launch: Launch,
    tools: Path,
    name: str,
    config: str,
    checkpoint: str,
    work_dir: Path,
    options: list[str],
) -> list[str]:
    """tools/test.py on a checkpoint of the stage `name`."""
    start = [sys.executable, str(tools / 'test.py'), config, checkpoint]
    if launch.launcher == 'slurm':
        start = [*_slurm(launch, tools / 'slurm_test.sh', name), config, checkpoint]
    elif launch.launcher == 'pytorch':
        start = ['bash', str(tools / 'dist_test.sh'), config, checkpoint, str(launch.gpus)]
    return [*start, '--work-dir', str(work_dir), *_cfg_options(options)]


def _slurm(launch: Launch, script: Path, name: str) -> list[str]:
    sizes = [f'GPUS={launch.gpus}', f'GPUS_PER_NODE={launch.per_node}']
    return ['env', *sizes, 'bash', str(script), launch.partition, name]


def _cfg_options(options: list[str]) -> list[str]:
    return ['--cfg-options', *options] if options else []


def sbatch(
    launch: Launch, name: str, after: list[str], command: list[str], time: str | None = None
) -> str:
    """Return a line of shell that submits `command` for the stage `name`, to start when the stages `after` have succeeded.

    Slurm signals the job's processes two minutes before its time limit; they save, and the job queues itself again.
    """
    gpu = (
        [f'--ntasks-per-node={launch.per_node}', f'--gres=gpu:{launch.per_node}']
        if name != PREPARE
        else []
    )
    words = [
        'sbatch', '--parsable', f'--partition={launch.partition}', f'--job-name={name}',
        f'--ntasks={launch.gpus if gpu else 1}', *gpu, '--cpus-per-task=5', *([f'--time={time}'] if time else []),
        '--signal=USR1@120', '--requeue', '--open-mode=append',
    ]  # fmt: skip
    dependency = (
        [f'--dependency=afterok:{":".join(f"${_variable(stage)}" for stage in after)}']
        if after
        else []
    )
    again = f'{readable(command)}; code=$?; [ $code != 138 ] || scontrol requeue $SLURM_JOB_ID; exit $code'
    line = ' '.join([shlex.join(words), *dependency, f'--wrap={shlex.quote(again)}'])
    return f'{_variable(name)}=$({line})'


def _variable(name: str) -> str:
    """A stage's name as a variable of the shell."""
    return re.sub(r'\W', '_', f'job_{name}')


def readable(command: list[str]) -> str:
    """The command as one would type it."""
    return shlex.join(['python', *command[1:]] if command[0] == sys.executable else command)

"""Launchers of stages, submission of Slurm jobs, and commands as shell lines."""

import shlex
import shutil
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path

from command_line import positive

TOOLS = Path(__file__).parents[1]
LAUNCHERS = ('none', 'pytorch', 'slurm')


@dataclass(frozen=True)
class Launch:
    """Launcher of a stage for `gpus` processes: 'none' (one process), 'pytorch' or 'slurm'.

    Raises ValueError for several processes without a launcher, or for Slurm without a partition.
    """

    launcher: str = 'none'
    gpus: int = 1
    partition: str | None = None
    time: str | None = None

    def __post_init__(self):
        if self.launcher == 'none' and self.gpus > 1:
            raise ValueError(f'--gpus {self.gpus} needs --launcher pytorch or slurm')
        if self.launcher == 'slurm' and not self.partition:
            raise ValueError('--launcher slurm needs --partition NAME')

    @property
    def gpus_per_node(self) -> int:
        return min(self.gpus, 8)


def add_launch_arguments(parser: ArgumentParser) -> None:
    """Add the arguments that recipe.py and reproduce.py share."""
    add = parser.add_argument
    add('--launcher', choices=LAUNCHERS, default='none', help='pytorch: torchrun; slurm: srun')
    add('--gpus', type=positive, default=1, metavar='N', help='processes per stage')
    add('--partition', metavar='NAME', help='Slurm partition')
    add('--time', metavar='LIMIT', help='limit per Slurm job, e.g. 24:00:00')
    add('--dry-run', action='store_true', help='print the commands or Slurm jobs, run nothing')
    add('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='override all configs')


def launch_of(args: Namespace) -> Launch:
    return Launch(args.launcher, args.gpus, args.partition, args.time)


def tool_path(name: str) -> str:
    """Return the path of a tool, relative to the current folder if possible."""
    path = TOOLS / name
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def job_command(args: Namespace, work_dir: Path) -> list[str]:
    """Return the command of a Slurm job, which is this command without --dry-run and --stage."""
    command = [sys.executable, tool_path('recipe.py'), 'run', args.recipe]
    command += ['--work-dir', str(work_dir), '--launcher', args.launcher]
    command += ['--gpus', str(args.gpus), '--partition', str(args.partition)]
    command += ['--long'] if args.long else []
    return [*command, '--cfg-options', *args.cfg_options] if args.cfg_options else command


def sbatch(
    launch: Launch, name: str, command: list[str], after: list[str], gpus: bool = True
) -> str:
    """Return a shell command that submits a job and prints its id.

    The job starts when the jobs in the shell variables `after` have succeeded. Slurm signals its
    processes two minutes before the time limit: they save, and the job queues itself again.
    """
    words = ['sbatch', '--parsable', f'--partition={launch.partition}', f'--job-name={name}']
    words.append(f'--ntasks={launch.gpus if gpus else 1}')
    if gpus:
        per_node = launch.gpus_per_node
        words += [f'--ntasks-per-node={per_node}', f'--gres=gpu:{per_node}']
    words.append('--cpus-per-task=5')
    if launch.time:
        words.append(f'--time={launch.time}')
    line = shlex.join([*words, '--signal=USR1@120', '--requeue', '--open-mode=append'])
    if after:
        line += f' --dependency=afterok:{":".join(f"${job}" for job in after)}'
    script = f'{shell_line(command)}; code=$?; [ $code != 138 ] || scontrol requeue $SLURM_JOB_ID'
    return f'{line} --wrap={shlex.quote(f"{script}; exit $code")}'


def split_command(line: str) -> list[str]:
    """Split a line of `prepare`; `python` is this Python, and `tools/` is found from any folder."""
    words = [
        tool_path(word.removeprefix('tools/')) if word.startswith('tools/') else word
        for word in shlex.split(line)
    ]
    return [sys.executable, *words[1:]] if words[0] == 'python' else words


def shell_line(command: list[str]) -> str:
    """Return the command as a shell line, with `python` for this Python if the PATH leads to it."""
    if command[0] == sys.executable == shutil.which('python'):
        command = ['python', *command[1:]]
    return shlex.join(command)

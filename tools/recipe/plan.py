"""Plan the stages that have to run and their commands, also as a shell script."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .chain import Recipe, Stage, expected_checkpoint, stage_options
from .commands import Launch, sbatch, shell_line, split_command, tool_path
from .records import describe_inputs, find_checkpoint, read_record, stage_status

PREPARE = 'prepare'  # `--stage prepare` runs the recipe's `prepare` alone


@dataclass(frozen=True)
class RunSettings:
    """Settings that all stages of a run share.

    `overrides` ('key=value') apply to every config, `seed` None leaves the seeds of the configs,
    and `only` names the stages to run (all if empty).
    """

    work_dir: Path
    overrides: list[str] = field(default_factory=list)
    seed: int | None = None
    launch: Launch = field(default_factory=Launch)
    only: tuple[str, ...] = ()

    @property
    def on_slurm(self) -> bool:
        return self.launch.launcher == 'slurm'


@dataclass(frozen=True)
class PlannedStage:
    """A stage with its title for the log, its `stage_status` and its `--cfg-options`."""

    title: str
    stage: Stage
    status: str
    reason: str
    inputs: dict
    options: list[str]

    def command(self, settings: RunSettings, checkpoint: str | None = None) -> list[str]:
        """Return the command that trains the stage, or tests its checkpoint."""
        kind = 'test' if checkpoint else 'train'
        arguments = [self.stage.config, *filter(None, [checkpoint])]
        work_dir = str(settings.work_dir / self.stage.name / ('test' if checkpoint else ''))
        flags = ['--work-dir', work_dir]
        launch = settings.launch
        if launch.launcher == 'slurm':
            start = ['env', f'GPUS={launch.gpus}', f'GPUS_PER_NODE={launch.gpus_per_node}']
            start += ['bash', tool_path(f'slurm_{kind}.sh'), launch.partition, self.stage.name]
            if not checkpoint:  # the script takes the work dir as an argument
                arguments, flags = [self.stage.config, work_dir], []
        elif launch.launcher == 'pytorch':
            start = ['bash', tool_path(f'dist_{kind}.sh')]
            arguments.append(str(launch.gpus))
        else:
            start = [sys.executable, tool_path(f'{kind}.py')]
        if self.status == 'interrupted' and not checkpoint:
            flags.append('--resume')
        if self.options:
            flags += ['--cfg-options', *self.options]
        return start + arguments + flags


def selected_stages(recipe: Recipe, settings: RunSettings) -> Iterator[tuple[str, Stage]]:
    """Yield the stages that the settings choose, each with its title for the log."""
    for number, stage in enumerate(recipe.stages, 1):
        if not settings.only or stage.name in settings.only:
            yield f'[{number} of {len(recipe.stages)}] {stage.name}', stage


def plan_stage(
    title: str, stage: Stage, recipe: Recipe, settings: RunSettings, pending: dict[str, str]
) -> PlannedStage:
    """Return a stage's plan; `pending` maps unfinished stages to their future checkpoints.

    Raises FileNotFoundError if a stage that it starts from has no checkpoint and is not pending.
    """
    own_options = stage_options(stage, settings.seed, settings.overrides)
    status, reason, inputs = 'new', '', {}
    if not pending.keys() & set(stage.weights.values()):
        gpus = settings.launch.gpus
        inputs = describe_inputs(stage, settings.work_dir, own_options, recipe.prepare, gpus)
        status, reason = stage_status(settings.work_dir / stage.name, inputs)
    options = list(own_options)
    for key, name in stage.weights.items():
        path = pending.get(name) or find_checkpoint(settings.work_dir / name)
        options.append(f'{key}={path}')
    return PlannedStage(title, stage, status, reason, inputs, options)


def plan(recipe: Recipe, settings: RunSettings) -> list[PlannedStage]:
    """Return the stages that would run now, with the paths that future checkpoints will have."""
    titles = {stage.name: title for title, stage in selected_stages(recipe, settings)}
    planned, pending = [], {}
    for stage in recipe.stages:
        stage_dir = settings.work_dir / stage.name
        if stage.name in titles:
            todo = plan_stage(titles[stage.name], stage, recipe, settings, pending)
            is_finished = todo.status == 'finished'
            planned += [] if is_finished else [todo]
        else:
            is_finished = read_record(stage_dir) is not None
        if not is_finished:
            options = stage_options(stage, settings.seed, settings.overrides)
            pending[stage.name] = expected_checkpoint(stage, stage_dir, options)
    return planned


def shell_script(recipe: Recipe, settings: RunSettings, job_command: list[str]) -> str:
    """Return the plan as a shell script.

    With Slurm the script submits one job per stage, which runs `job_command --stage NAME`: so
    finished stages are recorded, and a job that was queued again resumes.
    """
    lines = ['set -e']
    stages = plan(recipe, settings)
    if not stages:
        lines = ['# all stages are finished']
    elif settings.on_slurm:
        lines += _job_lines(recipe, settings, stages, job_command)
    else:
        lines += [shell_line(split_command(line)) for line in recipe.prepare]
        for planned in stages:
            lines += ['', _comment(planned), *_command_lines(planned, settings)]
    return '\n'.join(lines)


def _comment(planned: PlannedStage) -> str:
    return f'# {planned.title}: {planned.reason}' if planned.reason else f'# {planned.title}'


def _command_lines(planned: PlannedStage, settings: RunSettings) -> list[str]:
    commands = [planned.command(settings)]
    if planned.stage.test:
        stage_dir = settings.work_dir / planned.stage.name
        checkpoint = expected_checkpoint(planned.stage, stage_dir, planned.options)
        commands.append(planned.command(settings, checkpoint))
    return [shell_line(command) for command in commands]


def _job_lines(
    recipe: Recipe, settings: RunSettings, stages: list[PlannedStage], command: list[str]
) -> list[str]:
    """Return lines that submit the jobs; the shell variables `job_1`, `job_2` … hold their ids."""
    lines, first = [], []
    if recipe.prepare:  # one job, which all others wait for
        job = sbatch(settings.launch, PREPARE, [*command, '--stage', PREPARE], [], gpus=False)
        lines.append(f'job_0=$({job})')
        first = ['job_0']
    # Names of stages are no variables: `a-b` and `a/b` would be the same one.
    variables = {planned.stage.name: f'job_{i}' for i, planned in enumerate(stages, 1)}
    for planned in stages:
        name, sources = planned.stage.name, dict.fromkeys(planned.stage.weights.values())
        after = [variables[source] for source in sources if source in variables]
        job = sbatch(settings.launch, name, [*command, '--stage', name], after or first)
        lines += ['', _comment(planned), f'{variables[name]}=$({job})']
    return lines

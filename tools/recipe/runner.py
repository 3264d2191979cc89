"""Run a recipe: skip finished stages, resume interrupted ones, restart those with other inputs."""

import time
from pathlib import Path

from .chain import Recipe, stage_length
from .commands import shell_line, split_command
from .display import StageDisplay, headline, say
from .plan import PREPARE, PlannedStage, RunSettings, plan_stage, selected_stages
from .process import execute
from .records import (
    BEGUN,
    FINISHED,
    PREPARED,
    find_checkpoint,
    move_to_previous,
    read_json,
    read_record,
    write_json,
)

LOG = 'output.log'  # in a stage's folder: what its commands print


def run(recipe: Recipe, settings: RunSettings) -> None:
    """Run the stages that are not finished, one after the other.

    Raises StageFailed with the stage's name, exit code and log, and FileNotFoundError for a stage
    whose weights are missing.
    """
    prepare(recipe, settings)
    for title, stage in selected_stages(recipe, settings):
        for source in stage.weights.values():
            if not read_record(settings.work_dir / source):
                raise FileNotFoundError(
                    f'{stage.name} starts from {source}, which is not finished in '
                    f'{settings.work_dir}: run {source} first'
                )
        planned = plan_stage(title, stage, recipe, settings, {})
        if planned.reason:
            say(f'{title}: {planned.reason}')
        if planned.status != 'finished':
            _run_stage(planned, settings)


def prepare(recipe: Recipe, settings: RunSettings) -> None:
    """Run the recipe's `prepare`, and record how long it took when it first ran.

    A run of chosen stages skips it once it is recorded, since jobs of a cluster share the data.
    """
    path = settings.work_dir / PREPARED
    is_recorded = (read_json(path) or {}).get('commands') == recipe.prepare
    if is_recorded and settings.only and PREPARE not in settings.only:
        return
    if not recipe.prepare:
        return
    start = time.monotonic()
    for line in recipe.prepare:
        log = settings.work_dir / f'{PREPARE}.log'
        _execute(PREPARE, split_command(line), None if settings.on_slurm else log)
    seconds = time.monotonic() - start
    if not is_recorded:
        write_json(path, dict(commands=recipe.prepare, wall_s=seconds))
    say(f'{PREPARE}: done in {seconds:.0f} s')


def _execute(title: str, command: list[str], log: Path | None, epochs: int = 1) -> float:
    """Run a command and return its peak memory (GiB); show its progress if it writes a log."""
    if log is None:
        say(f'{title}\n   {shell_line(command)}')
        return execute(title, command)
    with StageDisplay(title, log, epochs) as display:
        return execute(title, command, log, display.update)


def _run_stage(planned: PlannedStage, settings: RunSettings) -> None:
    """Train and test a stage; record it as begun before, and as finished afterwards."""
    stage, title, resume = planned.stage, planned.title, planned.status == 'interrupted'
    stage_dir = settings.work_dir / stage.name
    if stage_dir.exists() and not resume:
        say(f'{title}: its earlier files were moved to {move_to_previous(stage_dir)}')
    write_json(stage_dir / BEGUN, dict(made_from=planned.inputs))

    start = time.monotonic()
    commands = [planned.command(settings)]
    log = None if settings.on_slurm else stage_dir / LOG
    unit, length = stage_length(stage, planned.options) or ('', 1)
    peak = _execute(title, commands[0], log, length if unit == 'epoch' else 1)
    if stage.test:
        commands.append(planned.command(settings, str(find_checkpoint(stage_dir))))
        peak = max(peak, _execute(f'{title}, test', commands[1], log))
    seconds = time.monotonic() - start

    record = dict(
        commands=[shell_line(command) for command in commands],
        wall_s=seconds,
        peak_rss_gib=peak,
        name=stage.name,
        weights=stage.weights,
        logs=sorted(path.parent.name for path in stage_dir.glob('*/vis_data')),
        resumed=resume,
        made_from=planned.inputs,
    )
    write_json(stage_dir / FINISHED, record)
    (stage_dir / BEGUN).unlink()
    result = '; '.join(filter(None, [f'{seconds:.0f} s', f'{peak:.1f} GiB', headline(stage_dir)]))
    say(f'{title}: done in {result}')

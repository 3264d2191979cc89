"""Run a recipe: skip finished stages, resume interrupted ones, restart those with other inputs."""

import time

from .chain import Recipe
from .commands import shell_line, split_command
from .plan import PREPARE, PlannedStage, RunSettings, plan_stage, selected_stages
from .process import execute, say
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
    start = time.monotonic()
    for line in recipe.prepare:
        execute('prepare', split_command(line), settings.work_dir)
    if recipe.prepare and not is_recorded:
        write_json(path, dict(commands=recipe.prepare, wall_s=time.monotonic() - start))


def _run_stage(planned: PlannedStage, settings: RunSettings) -> None:
    """Train and test a stage; record it as begun before, and as finished afterwards."""
    stage, title, resume = planned.stage, planned.title, planned.status == 'interrupted'
    stage_dir = settings.work_dir / stage.name
    if stage_dir.exists() and not resume:
        say(f'{title}: its earlier files were moved to {move_to_previous(stage_dir)}')
    write_json(stage_dir / BEGUN, dict(made_from=planned.inputs))

    start = time.monotonic()
    commands = [planned.command(settings)]
    peak = execute(title, commands[0], stage_dir)
    if stage.test:
        commands.append(planned.command(settings, str(find_checkpoint(stage_dir))))
        peak = max(peak, execute(f'{title}, test', commands[1], stage_dir / 'test'))
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
    say(f'{title}: done in {seconds:.0f} s, {peak:.2f} GiB in the largest process')

"""Running a chain: what is finished is skipped, what was broken off goes on, what has changed begins again."""

import json
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from . import commands
from .chain import (
    BEGUN,
    PREPARED,
    RECORD,
    Recipe,
    Stage,
    changes,
    checkpoint,
    last_checkpoint,
    made_from,
    read_begun,
    read_record,
    set_aside,
    settings,
    weight_options,
    write_json,
)
from .commands import Launch, readable
from .process import execute, say


@dataclass(frozen=True)
class Settings:
    """What every stage of a run shares. `tools`: the folder of train.py; `overrides`: 'key=value' over every config;
    `only`: the names of the stages to run, all when empty."""

    work_dir: Path
    tools: Path
    overrides: list[str] = field(default_factory=list)
    seed: int | None = None
    launch: Launch = field(default_factory=Launch)
    only: tuple[str, ...] = ()
    time: str | None = None  # limit of a Slurm job


def run(recipe: Recipe, to: Settings) -> None:
    """Run what is not finished, one stage after the other; progress goes to stdout.

    Raises StageFailed with the stage's name, exit code and log, FileNotFoundError for a stage whose weights are missing.
    """
    _prepare(recipe.prepare, to)
    for title, stage in _chosen(recipe, to.only):
        stage_dir, options = to.work_dir / stage.name, settings(stage, to.seed, to.overrides)
        for source in stage.weights.values():
            if not read_record(to.work_dir / source):
                raise FileNotFoundError(
                    f'{stage.name} starts from {source}, which is not finished in {to.work_dir}: run it first'
                )
        origin = made_from(stage, to.work_dir, options, recipe.prepare, to.launch.gpus)
        resume, words = standing(stage_dir, origin)
        if words:
            say(f'{title}: {words}')
        if resume is None:
            continue
        before = read_begun(stage_dir)['before'] if resume else _logs(stage_dir)
        (stage_dir / RECORD).unlink(missing_ok=True)
        if not resume and (previous := set_aside(stage_dir)):
            say(f'{title}: its earlier checkpoints were moved to {previous}')
        write_json(stage_dir / BEGUN, dict(made_from=origin, before=before))
        record = _run_stage(
            stage, title, to, options + weight_options(stage.weights, to.work_dir), resume
        )
        logs = [log for log in _logs(stage_dir) if log not in before]
        record |= dict(
            name=stage.name, weights=stage.weights, logs=logs, resumed=resume, made_from=origin
        )
        write_json(stage_dir / RECORD, record)
        (stage_dir / BEGUN).unlink()


def standing(stage_dir: Path, origin: dict) -> tuple[bool | None, str]:
    """Whether a stage is to be resumed, None when it is finished, and why, in words."""
    record, begun = read_record(stage_dir), read_begun(stage_dir)
    if record and not changes(origin, record):
        return None, f'finished before, in {record["wall_s"]:.0f} s; skipped'
    if record:
        return (
            False,
            f'runs again, since what it was made from has changed: {", ".join(changes(origin, record))}',
        )
    if not begun:
        return False, ''
    if changed := changes(origin, begun):
        return (
            False,
            f'begins again, since what it was begun from has changed: {", ".join(changed)}',
        )
    try:
        return True, f'was broken off, goes on from {checkpoint(stage_dir)}'
    except FileNotFoundError:
        return False, ''


def _logs(stage_dir: Path) -> list[str]:
    """The folders that runs have logged to, oldest first."""
    return sorted(path.parent.name for path in stage_dir.glob('*/vis_data'))


def _chosen(recipe: Recipe, only: tuple[str, ...]) -> Iterator[tuple[str, Stage]]:
    for number, stage in enumerate(recipe.stages, 1):
        if not only or stage.name in only:
            yield f'[{number} of {len(recipe.stages)}] {stage.name}', stage


def _prepare(prepare: list[str], to: Settings) -> None:
    """Run the commands; what they took counts when they first ran, since later they have nothing to do."""
    start, record = time.monotonic(), to.work_dir / PREPARED
    for command in prepare:
        execute('prepare', _words(command, to.tools), to.work_dir)
    if prepare and not (record.exists() and json.loads(record.read_text())['commands'] == prepare):
        write_json(record, dict(commands=prepare, wall_s=time.monotonic() - start))


def _words(command: str, tools: Path) -> list[str]:
    """Split a command of `prepare`; `tools/…` is found wherever the command line runs."""
    words = [
        str(tools / word.removeprefix('tools/')) if word.startswith('tools/') else word
        for word in shlex.split(command)
    ]
    return [sys.executable if words[0] == 'python' else words[0], *words[1:]]


def _run_stage(stage: Stage, title: str, to: Settings, options: list[str], resume: bool) -> dict:
    stage_dir, ran, start = to.work_dir / stage.name, [], time.monotonic()
    ran.append(
        commands.train(to.launch, to.tools, stage.name, stage.config, stage_dir, options, resume)
    )
    peak = execute(title, ran[0], stage_dir)
    if stage.test:
        ran.append(_test(stage, to, str(checkpoint(stage_dir)), options))
        peak = max(peak, execute(f'{title}, test', ran[1], stage_dir / 'test'))
    wall = time.monotonic() - start
    say(f'{title}: done in {wall:.0f} s, peak memory {peak:.2f} GiB')
    return dict(commands=[readable(command) for command in ran], wall_s=wall, peak_rss_gib=peak)


def _test(stage: Stage, to: Settings, weights: str, options: list[str]) -> list[str]:
    test_dir = to.work_dir / stage.name / 'test'
    return commands.test(to.launch, to.tools, stage.name, stage.config, weights, test_dir, options)


# -- without running ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planned:
    """A stage that would run: why, after which others of this run, and its commands."""

    title: str
    name: str
    words: str
    after: list[str]
    commands: list[list[str]]


def plan(recipe: Recipe, to: Settings) -> list[Planned]:
    """What `run` would run now, nothing of it run; checkpoints still to be written stand under their future names."""
    planned: list[Planned] = []
    future: dict[str, str] = {}  # stage → the checkpoint that it will write
    for title, stage in _chosen(recipe, to.only):
        stage_dir, options = to.work_dir / stage.name, settings(stage, to.seed, to.overrides)
        missing = {
            s: _expected(recipe, s, to)
            for s in stage.weights.values()
            if not read_record(to.work_dir / s)
        }
        later = missing | {
            source: future[source] for source in stage.weights.values() if source in future
        }
        resume, words = False, ''
        if not later:
            origin = made_from(stage, to.work_dir, options, recipe.prepare, to.launch.gpus)
            resume, words = standing(stage_dir, origin)
        if resume is None:
            continue
        there = {key: source for key, source in stage.weights.items() if source not in later}
        named = [
            f'{key}={later[source]}' for key, source in stage.weights.items() if source in later
        ]
        given = options + named + weight_options(there, to.work_dir)
        lines = [
            commands.train(to.launch, to.tools, stage.name, stage.config, stage_dir, given, resume)
        ]
        future[stage.name] = last_checkpoint(stage, stage_dir, options)
        if stage.test:
            lines.append(_test(stage, to, future[stage.name], given))
        after = [name for name in dict.fromkeys(stage.weights.values()) if name in future]
        planned.append(Planned(title, stage.name, words, after, lines))
    return planned


def _expected(recipe: Recipe, name: str, to: Settings) -> str:
    stage = next(stage for stage in recipe.stages if stage.name == name)
    return last_checkpoint(stage, to.work_dir / name, settings(stage, to.seed, to.overrides))


def script(recipe: Recipe, planned: list[Planned], to: Settings, itself: list[str]) -> str:
    """The plan as a shell script. With Slurm its lines submit a job a stage, which runs `itself`, this command, for it:
    so what is finished is recorded, and a job that is requeued goes on."""
    slurm = to.launch.launcher == 'slurm'
    lines = [] if slurm else [readable(_words(command, to.tools)) for command in recipe.prepare]
    first = []
    if slurm and planned and recipe.prepare:  # once, before all stages
        first = [commands.PREPARE]
        lines.append(commands.sbatch(to.launch, *first, [], [*itself, '--stage', *first], to.time))
    for stage in planned:
        lines += ['', f'# {stage.title}' + (f': {stage.words}' if stage.words else '')]
        typed = [readable(command) for command in stage.commands]
        lines += [f'#   {line}' for line in typed] if slurm else typed
        if slurm:
            lines.append(
                commands.sbatch(
                    to.launch,
                    stage.name,
                    stage.after or first,
                    [*itself, '--stage', stage.name],
                    to.time,
                )
            )
    return '\n'.join(lines).strip() or '# all stages are finished'

"""Run a chain of stages, each from an earlier one's checkpoint; check a config against the paper.

python tools/recipe.py run RECIPE
python tools/recipe.py check CONFIG
"""

import beit_mm.registry  # noqa: F401  names the packages that are missing

# isort: split
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path

from recipe import chain, runner
from recipe.commands import LAUNCHERS, PREPARE, Launch
from recipe.process import StageFailed, Stopped
from reports import summary

from beit_mm.config_check import comparison as check
from beit_mm.config_check import comparison_table as table
from beit_mm.config_check import paper
from beit_mm.config_check import summary as facts
from beit_mm.utils.cfg_options import Options

TOOLS = Path(__file__).parent
if TOOLS.is_relative_to(Path.cwd()):  # commands that are printed stay short
    TOOLS = TOOLS.relative_to(Path.cwd())


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest='verb', required=True)
    run = verbs.add_parser(
        'run', help='run what is not finished, then write report.html and summary.json'
    )
    run.add_argument('recipe', help='recipe file, e.g. configs/paper/recipe.py')
    run.add_argument(
        '--work-dir',
        type=Path,
        help="of the stages' folders and the report (default: the recipe's)",
    )
    run.add_argument('--stage', nargs='+', default=[], metavar='NAME', help='only these stages')
    run.add_argument(
        '--seeds', type=int, default=1, metavar='N', help='run all N times, report mean ± spread'
    )
    run.add_argument('--long', action='store_true', help='also the stages marked long')
    run.add_argument(
        '--launcher', choices=LAUNCHERS, default='none', help='pytorch: torchrun; slurm: srun'
    )
    run.add_argument('--gpus', type=int, default=1, metavar='N', help='processes, with a launcher')
    run.add_argument('--partition', metavar='NAME', help="Slurm's")
    run.add_argument(
        '--time',
        metavar='LIMIT',
        help="of each Slurm job, e.g. 24:00:00 (default: the partition's)",
    )
    run.add_argument(
        '--dry-run',
        action='store_true',
        help='print the commands, with slurm as sbatch lines; run nothing',
    )
    run.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help="over every stage's config",
    )
    look = verbs.add_parser(
        'check', help="say where a config differs from the paper's, and where it contradicts itself"
    )
    look.add_argument(
        'config', help="a config of this project's, or a BEiT config of mmpretrain or mmseg"
    )
    look.add_argument(
        '--gpus', type=int, metavar='N', help="processes (default: the file name's, 8xb256, else 1)"
    )
    look.add_argument(
        '--auto-scale-lr', action='store_true', help='as it will be given to tools/train.py'
    )
    look.add_argument(
        '--cfg-options', nargs='+', action=Options, metavar='KEY=VALUE', help='over the config'
    )
    args = parser.parse_args(arguments)
    if args.verb == 'check':
        sys.exit(_check(args))
    if args.seeds < 1:
        parser.error(f'--seeds {args.seeds}: at least one')
    if wrong := [option for option in args.cfg_options if '=' not in option]:
        parser.error(f'--cfg-options takes KEY=VALUE, got {" ".join(wrong)}')
    if args.dry_run and args.launcher == 'slurm' and args.seeds > 1:
        parser.error('--dry-run --launcher slurm prints the jobs of one seed: leave --seeds out')
    try:
        _run(chain.read_recipe(args.recipe, args.long), args)
    except (FileNotFoundError, ValueError, StageFailed) as error:
        sys.exit(f'error: {error}')
    except Stopped as stopped:
        print(
            f'{stopped}; the same command continues: finished stages are kept, and the interrupted one resumes from its last '
            'checkpoint',
            file=sys.stderr,
        )
        sys.exit(128 + stopped.number)
    except KeyboardInterrupt:
        sys.exit('stopped; the same command continues')


def _check(args: Namespace) -> int:
    """The exit code: 0, 1 for contradictions, 2 for what cannot be checked."""
    try:
        if args.gpus is not None and args.gpus < 1:
            raise ValueError(f'--gpus {args.gpus}: at least one')
        found = facts.read(args.config, args.cfg_options, args.gpus, args.auto_scale_lr)
    except (FileNotFoundError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    row, misses = paper.nearest(found)
    findings = check.check(found, row)
    print(f'{args.config}\n{table.text(found, row, misses, findings)}')
    return int(any(finding.contradiction for finding in findings))


def _run(recipe: chain.Recipe, args: Namespace) -> None:
    work_dir = args.work_dir or Path(recipe.work_dir)
    names, launch = (
        [stage.name for stage in recipe.stages],
        Launch(args.launcher, args.gpus, args.partition),
    )
    if unknown := [name for name in args.stage if name not in [*names, PREPARE]]:
        raise ValueError(
            f'--stage {" ".join(unknown)}: {args.recipe} has the stages {", ".join(names)}'
        )
    if args.seeds == 1:
        runs = [(work_dir, recipe.seed)]
    else:
        first = recipe.seed or 0
        runs = [(work_dir / f'seed-{seed}', seed) for seed in range(first, first + args.seeds)]
    for folder, seed in runs:
        to = runner.Settings(
            folder, TOOLS, args.cfg_options, seed, launch, tuple(args.stage), args.time
        )
        if args.dry_run:
            print(runner.script(recipe, runner.plan(recipe, to), to, _itself(args, work_dir)))
        else:
            runner.run(recipe, to)
    if not args.dry_run:
        _report(recipe, work_dir, [folder for folder, _ in runs], names)


def _itself(args: Namespace, work_dir: Path) -> list[str]:
    """This command without --dry-run and --stage."""
    start = [
        sys.executable,
        str(TOOLS / 'recipe.py'),
        'run',
        args.recipe,
        '--work-dir',
        str(work_dir),
    ]
    start += [
        '--launcher',
        args.launcher,
        '--gpus',
        str(args.gpus),
        '--partition',
        str(args.partition),
    ]
    options = ['--cfg-options', *args.cfg_options] if args.cfg_options else []
    return [*start, *(['--long'] if args.long else []), *options]


def _report(recipe: chain.Recipe, work_dir: Path, folders: list[Path], names: list[str]) -> None:
    if missing := [
        name for folder in folders for name in names if not chain.read_record(folder / name)
    ]:
        print(f'Not finished yet: {", ".join(missing)}. The report comes with the last.')
        return
    found = [summary.summarize(folder, names) for folder in folders]
    for folder, one in zip(folders, found, strict=True):
        chain.write_json(folder / 'summary.json', one)
    together = found[0] if len(found) == 1 else summary.over_seeds(found)
    chain.write_json(work_dir / 'summary.json', together)
    print(f'\n{summary.text_table(together)}\n', flush=True)
    from reports import recipe_report as report  # imports torch and the hosts, which takes seconds

    report.write(work_dir / 'report.html', folders[0], names, together, recipe.title, recipe.note)
    print(f'All of it, with pictures: {work_dir / "report.html"}')


if __name__ == '__main__':
    main()

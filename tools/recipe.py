"""Run a recipe, which is a chain of training stages; or compare a config with the paper.

python tools/recipe.py run RECIPE
python tools/recipe.py check CONFIG
"""

import beit_mm.registry  # noqa: F401  names the packages that are missing

# isort: split
import sys
from argparse import Namespace
from contextlib import suppress
from pathlib import Path

from command_line import make_parser, positive
from recipe import chain, runner
from recipe.check import check
from recipe.commands import add_launch_arguments, job_command, launch_of
from recipe.plan import PREPARE, RunSettings, shell_script
from recipe.process import StageFailed, Stopped
from reports.recipe_report import write_reports

from beit_mm.utils.cfg_options import Options


def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    verbs = parser.add_subparsers(dest='verb', required=True)
    run = verbs.add_parser('run', help='run what is not finished, then write a report')
    run.add_argument('recipe', help='recipe file, e.g. configs/paper/recipe.py')
    run.add_argument('--work-dir', type=Path, help="default: the recipe's")
    run.add_argument('--stage', nargs='+', default=[], metavar='NAME', help='only these stages')
    help_text = 'run N times, report mean ± spread'
    run.add_argument('--seeds', type=positive, default=1, metavar='N', help=help_text)
    run.add_argument('--long', action='store_true', help='also run the stages marked long')
    add_launch_arguments(run)
    compare = verbs.add_parser('check', help='list differences from the paper and contradictions')
    compare.add_argument('config', help='a BEiT config of this project, mmpretrain or mmseg')
    compare.add_argument('--gpus', type=int, metavar='N', help='default: from the file name, or 1')
    compare.add_argument('--auto-scale-lr', action='store_true', help='as for tools/train.py')
    compare.add_argument('--cfg-options', nargs='+', action=Options, metavar='KEY=VALUE')
    args = parser.parse_args(arguments)
    if args.verb == 'check':
        sys.exit(check(args))
    try:
        _run(args)
    except (FileNotFoundError, ValueError, StageFailed) as error:
        sys.exit(f'error: {error}')
    except Stopped as stopped:
        with suppress(OSError):  # the terminal may be closed
            print(f'{stopped}; the same command continues the interrupted stage', file=sys.stderr)
        sys.exit(128 + stopped.number)
    except KeyboardInterrupt:
        sys.exit('stopped; the same command continues')


def _run(args: Namespace) -> None:
    if wrong := [option for option in args.cfg_options if '=' not in option]:
        raise ValueError(f'--cfg-options {" ".join(wrong)}: expected KEY=VALUE')
    if args.dry_run and args.launcher == 'slurm' and args.seeds > 1:
        raise ValueError('--dry-run --launcher slurm prints the jobs of one seed: omit --seeds')
    recipe = chain.read_recipe(args.recipe, args.long)
    names = [stage.name for stage in recipe.stages]
    if unknown := [name for name in args.stage if name not in [*names, PREPARE]]:
        raise ValueError(
            f'--stage {" ".join(unknown)}: expected stages of {args.recipe}: {", ".join(names)}'
        )
    work_dir = args.work_dir or Path(recipe.work_dir)
    runs = {work_dir: recipe.seed}
    if args.seeds > 1:
        first = recipe.seed or 0
        runs = {work_dir / f'seed-{seed}': seed for seed in range(first, first + args.seeds)}
    for folder, seed in runs.items():
        settings = RunSettings(folder, args.cfg_options, seed, launch_of(args), tuple(args.stage))
        if args.dry_run:
            print(shell_script(recipe, settings, job_command(args, work_dir)))
        else:
            runner.run(recipe, settings)
    if not args.dry_run:
        write_reports(recipe, work_dir, list(runs))


if __name__ == '__main__':
    main()

"""Re-run the paper's claims at a scale that fits the machine, and write a verdict on each.

python tools/reproduce.py --scale minutes
python tools/reproduce.py --scale hour --jobs 2 --out docs
python tools/reproduce.py --scale paper --data data --launcher pytorch --gpus 8
"""

import sys
from argparse import Namespace
from pathlib import Path

from command_line import errors_on_one_line, make_parser, positive
from recipe.commands import add_launch_arguments, launch_of
from recipe.plan import RunSettings, shell_script
from reproduce import page, plan, results
from reproduce.ablations import ABLATIONS
from reproduce.parallel import run_seeds
from reproduce.scale import Scale

from beit_mm.utils.installation import root


@errors_on_one_line()
def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add('--scale', required=True, help='minutes, hour, gpu, paper, or a file')
    known = ', '.join(ABLATIONS)
    add('--ablations', nargs='+', metavar='NAME', help=f"default: the scale's; known: {known}")
    add('--seeds', type=positive, metavar='N', help="seeds 1 to N (default: the scale's number)")
    add('--jobs', type=positive, default=1, metavar='N', help='seeds at the same time')
    add('--data', help="folder of the data sets (default: the scale's), see docs/datasets.md")
    add('--work-dir', type=Path, help='default: work_dirs/reproduce/SCALE')
    add('--out', type=Path, help='folder of results.md and results/ (default: the work dir)')
    add_launch_arguments(parser)
    args = parser.parse_args(arguments)
    try:
        _reproduce(args, sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        sys.exit('stopped; the same command continues')


def _reproduce(args: Namespace, arguments: list[str]) -> None:
    is_file = args.scale.endswith('.py')
    path = Path(args.scale) if is_file else root() / f'configs/reproduce/{args.scale}.py'
    scale = Scale.read(path, args.data)
    work_dir = args.work_dir or Path('work_dirs/reproduce') / scale.name
    out = args.out or work_dir
    names = plan.choose_ablations(scale, args.ablations)
    found = results.read(out, scale.name)
    runs = {}
    for seed in range(1, (args.seeds or scale.cfg['seeds']) + 1):
        recipe = plan.make_recipe(scale, names, seed, work_dir)
        digests = plan.stage_digests(recipe, args.cfg_options)
        finished = found['seeds'].get(str(seed), {})
        if only := plan.missing_stages(recipe, digests, finished):
            folder, launch = Path(recipe.work_dir), launch_of(args)
            settings = RunSettings(folder, args.cfg_options, seed, launch, only)
            runs[seed] = recipe, settings, digests
    if args.dry_run:
        if args.launcher == 'slurm':
            raise ValueError('--dry-run prints no Slurm jobs: run the command where srun is')
        for seed, (recipe, settings, _) in runs.items():
            print(f'# seed {seed}\n{shell_script(recipe, settings, [])}\n')
        return
    for seed, (recipe, settings, _) in runs.items():
        count = f'{len(settings.only)} of {len(recipe.stages)} stages'
        print(f'seed {seed}: {count} to run, log in {settings.work_dir}/log.txt', flush=True)

    command, failed = ['tools/reproduce.py', *arguments], []
    try:
        for seed, error in run_seeds([run[:2] for run in runs.values()], args.jobs):
            print(f'seed {seed}: {error or "done"}', flush=True)
            failed += [seed] if error else []
            results.save_finished(found, out, {seed: runs[seed]}, command)
    finally:  # keep the finished stages of interrupted seeds
        results.save_finished(found, out, runs, command)
    current = {}
    for seed in map(int, found['seeds']):
        recipe = plan.make_recipe(scale, list(ABLATIONS), seed, work_dir)
        current[seed] = plan.stage_digests(recipe, args.cfg_options)
    figures = results.select_current(found, current)
    page.write(out, scale.cfg, scale.name, figures, found['runs'])
    print(out / 'results.md')
    if failed:
        sys.exit(f'error: {len(failed)} of {len(runs)} seeds failed; the same command continues')


if __name__ == '__main__':
    main()

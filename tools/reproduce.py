"""Run the paper's claims again, at a scale that fits the machine, and say what came of each.

python tools/reproduce.py --scale minutes
python tools/reproduce.py --scale hour --jobs 2 --out docs
python tools/reproduce.py --scale paper --data data --launcher pytorch --gpus 8
"""

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path

from recipe.commands import LAUNCHERS, Launch
from recipe.plan import Settings, shell_script
from recipe.plan import plan as plan_stages
from reproduce import page, plan, results
from reproduce.rows import ROWS
from reproduce.run import run

TOOLS = Path(__file__).parent
if TOOLS.is_relative_to(Path.cwd()):  # commands that are printed stay short
    TOOLS = TOOLS.relative_to(Path.cwd())
SCALES = Path('configs/reproduce')


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument(
        '--scale',
        required=True,
        help='minutes, hour, gpu, paper, or a file like those of configs/reproduce',
    )
    parser.add_argument(
        '--rows', nargs='+', metavar='ROW', help=f"the scale's, unless told; of {', '.join(ROWS)}"
    )
    parser.add_argument(
        '--seeds',
        type=int,
        metavar='N',
        help="1 … N, each pre-trains anew; the scale's number unless told",
    )
    parser.add_argument(
        '--first-seed',
        type=int,
        default=1,
        metavar='S',
        help='S … instead: to try settings on seeds not reported',
    )
    parser.add_argument(
        '--jobs', type=int, default=1, metavar='N', help='seeds at the same time, a process each'
    )
    parser.add_argument(
        '--data',
        help="folder of the data sets; the scale's unless told (docs/datasets.md has the layouts)",
    )
    parser.add_argument(
        '--work-dir', type=Path, help='of all runs (default: work_dirs/reproduce/SCALE)'
    )
    parser.add_argument(
        '--out', type=Path, help='results.md and results/SCALE.* go there (default: the work dir)'
    )
    parser.add_argument(
        '--launcher', choices=LAUNCHERS, default='none', help='pytorch: torchrun; slurm: srun'
    )
    parser.add_argument(
        '--gpus', type=int, default=1, metavar='N', help='processes of a stage, with a launcher'
    )
    parser.add_argument('--partition', metavar='NAME', help="Slurm's")
    parser.add_argument('--dry-run', action='store_true', help='print the commands, run nothing')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help="over every stage's config",
    )
    args = parser.parse_args(arguments)
    for name in ('seeds', 'jobs'):
        if (number := getattr(args, name)) is not None and number < 1:
            parser.error(f'--{name} {number}: at least one')
    try:
        _main(args, ['tools/reproduce.py', *(sys.argv[1:] if arguments is None else arguments)])
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'error: {error}')
    except KeyboardInterrupt:
        sys.exit(
            'stopped; the same command goes on: finished stages are kept, a broken-off one has its checkpoints'
        )


def _main(args: Namespace, typed: list[str]) -> None:
    path = Path(args.scale)
    scale = plan.Scale.read(
        path if path.suffix == '.py' else SCALES / f'{args.scale}.py', args.data
    )
    work_dir = args.work_dir or Path('work_dirs/reproduce') / scale.name
    rows, launch = plan.rows_of(scale, args.rows), Launch(args.launcher, args.gpus, args.partition)
    seeds = range(args.first_seed, args.first_seed + (args.seeds or scale.cfg['seeds']))
    out = args.out or work_dir
    store = results.read(out, scale.name)
    chains, current = {}, {}
    for seed in seeds:
        recipe = plan.recipe(scale, rows, seed, work_dir)
        current[seed] = plan.keys(recipe, args.cfg_options)
        if only := plan.missing(recipe, current[seed], results.digests(store, seed)):
            chains[seed] = (
                recipe,
                Settings(Path(recipe.work_dir), args.cfg_options, seed, launch, only),
            )
    if args.dry_run and launch.launcher == 'slurm':
        raise ValueError('--dry-run prints no jobs of Slurm: run the command itself where srun is')
    if args.dry_run:
        for recipe, to in chains.values():
            print(f'# seed {to.seed}\n{shell_script(recipe, to, [])}\n')
        return
    for recipe, to in chains.values():
        print(
            f'seed {to.seed}: {len(to.only)} of {len(recipe.stages)} stages to run, log in {to.work_dir}/log.txt',
            flush=True,
        )
    failed = []
    try:
        for seed, error in run(list(chains.values()), args.jobs):
            print(f'seed {seed}: {error or "done"}', flush=True)
            failed += [seed] * bool(error)
            store = _kept(store, out, {seed: chains[seed]}, current, typed)
    finally:  # of seeds that were broken off what is finished
        store = _kept(store, out, chains, current, typed)
    all_rows = [plan.recipe(scale, list(ROWS), int(seed), work_dir) for seed in store['seeds']]
    shown = results.current(
        store, {chain.seed: plan.keys(chain, args.cfg_options) for chain in all_rows}
    )
    page.write(out, scale.cfg, scale.name, shown, store.get('runs', []))
    print(out / 'results.md')
    if failed:
        sys.exit(
            f'error: {len(failed)} of {len(chains)} seeds did not end well; the same command goes on'
        )


def _kept(store: dict, out: Path, chains: dict, current: dict, typed: list[str]) -> dict:
    """The store, saved, with the stages of these chains that are finished and made from what they would be made from now."""
    for seed, (recipe, to) in chains.items():
        unfinished = {one.stage.name for one in plan_stages(recipe, to)}
        made = {stage: current[seed][stage] for stage in to.only if stage not in unfinished}
        if made:
            store = results.add(store, seed, made, to.work_dir, results.made(typed))
            results.save(out, store)
    return store


if __name__ == '__main__':
    main()

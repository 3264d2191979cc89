"""Run a chain of stages, each from an earlier one's checkpoint: `python tools/recipe.py run RECIPE`."""

import sys
from argparse import ArgumentParser
from pathlib import Path

from beit_mm.recipe import chain as recipe
from beit_mm.recipe.process import StageFailed
from beit_mm.viz import summary


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest='verb', required=True)
    run = verbs.add_parser('run', help='run what is not finished, then write report.html and summary.json')
    run.add_argument('recipe', help='recipe file, e.g. configs/quickstart/recipe.py')
    run.add_argument('--work-dir', type=Path, help="of the stages' folders and the report (default: the recipe's)")
    run.add_argument('--seeds', type=int, default=1, metavar='N', help='run all N times, report mean ± spread')
    run.add_argument('--long', action='store_true', help='also the stages marked long')
    run.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help="over every stage's config")
    args = parser.parse_args(arguments)
    if args.seeds < 1:
        parser.error(f'--seeds {args.seeds}: at least one')
    if wrong := [option for option in args.cfg_options if '=' not in option]:
        parser.error(f'--cfg-options takes KEY=VALUE, got {" ".join(wrong)}')
    try:
        _run(recipe.read_recipe(args.recipe, args.long), args)
    except (FileNotFoundError, ValueError, StageFailed) as error:
        sys.exit(f'error: {error}')
    except KeyboardInterrupt:
        sys.exit('stopped; finished stages are kept, the same command goes on behind them')


def _run(chain: recipe.Recipe, args) -> None:
    work_dir, tools = args.work_dir or Path(chain.work_dir), Path(__file__).parent
    names = [stage.name for stage in chain.stages]
    if args.seeds == 1:
        runs = [(work_dir, chain.seed)]
    else:
        first = chain.seed or 0
        runs = [(work_dir / f'seed-{seed}', seed) for seed in range(first, first + args.seeds)]
    for folder, seed in runs:
        recipe.run(chain, folder, tools, args.cfg_options, seed)
    found = [summary.summarize(folder, names) for folder, _ in runs]
    for (folder, _), one in zip(runs, found, strict=True):
        recipe.write_json(folder / 'summary.json', one)
    together = found[0] if len(found) == 1 else summary.over_seeds(found)
    recipe.write_json(work_dir / 'summary.json', together)
    print(f'\n{summary.text_table(together)}\n', flush=True)
    from beit_mm.viz import report  # imports torch and the hosts, which takes seconds

    report.write(work_dir / 'report.html', runs[0][0], names, together, chain.title, chain.note)
    print(f'All of it, with pictures: {work_dir / "report.html"}')


if __name__ == '__main__':
    main()

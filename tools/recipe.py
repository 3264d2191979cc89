"""Run a chain of stages, each from an earlier one's checkpoint; check a config against the paper.

python tools/recipe.py run RECIPE
python tools/recipe.py check CONFIG
"""

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path

from mmengine.config import DictAction

from beit_mm.recipe import chain as recipe
from beit_mm.recipe import check, facts, paper, table
from beit_mm.recipe.process import StageFailed
from beit_mm.viz import summary


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest='verb', required=True)
    run = verbs.add_parser('run', help='run what is not finished, then write report.html and summary.json')
    run.add_argument('recipe', help='recipe file, e.g. configs/quickstart/recipe.py')
    run.add_argument('--work-dir', type=Path, help="of the stages' folders and the report (default: the recipe's)")
    run.add_argument('--seeds', type=int, default=1, metavar='N', help='run all N times, report mean ± spread')
    run.add_argument('--long', action='store_true', help='also the stages marked long')
    run.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help="over every stage's config")
    look = verbs.add_parser(
        'check', help="say where a config differs from the paper's, and where it contradicts itself"
    )
    look.add_argument('config', help="a config of this project's, or a BEiT config of mmpretrain or mmseg")
    look.add_argument('--gpus', type=int, metavar='N', help="processes (default: the file name's, 8xb256, else 1)")
    look.add_argument('--auto-scale-lr', action='store_true', help='as it will be given to tools/train.py')
    look.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='over the config')
    args = parser.parse_args(arguments)
    if args.verb == 'check':
        sys.exit(_check(args))
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


def _run(chain: recipe.Recipe, args: Namespace) -> None:
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

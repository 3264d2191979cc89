"""`tools/recipe.py check`: compare a config with the paper's recipes."""

import sys
from argparse import ArgumentParser, Namespace

from beit_mm.config_check.comparison import compare
from beit_mm.config_check.paper import find_nearest
from beit_mm.config_check.report import format_comparison
from beit_mm.config_check.summary import read_summary
from beit_mm.utils.cfg_options import Options


def add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add('config', help='a BEiT config of this project, mmpretrain or mmseg')
    add('--gpus', type=int, metavar='N', help='processes (default: from the file name, or 1)')
    add('--auto-scale-lr', action='store_true', help='as for tools/train.py')
    add('--cfg-options', nargs='+', action=Options, metavar='KEY=VALUE')


def check(args: Namespace) -> int:
    """Return the exit code: 0, 1 for contradictions, 2 if the config cannot be checked."""
    try:
        if args.gpus is not None and args.gpus < 1:
            raise ValueError(f'--gpus {args.gpus}: expected at least 1')
        summary = read_summary(args.config, args.cfg_options, args.gpus, args.auto_scale_lr)
    except (FileNotFoundError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    recipe, mismatches = find_nearest(summary)
    findings = compare(summary, recipe)
    print(f'{args.config}\n{format_comparison(summary, recipe, mismatches, findings)}')
    return int(any(finding.stops for finding in findings))

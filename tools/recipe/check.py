"""Compare a config with the paper's."""

import sys
from argparse import Namespace

from beit_mm.config_check.comparison import compare
from beit_mm.config_check.paper import find_nearest
from beit_mm.config_check.report import format_comparison
from beit_mm.config_check.summary import read_summary


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

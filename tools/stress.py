"""Faults by the hundred: `python tools/stress.py kill --n 200 --seed 0`. The last line counts; exit code 1 if anything is lost.

kill      kill -9 around saves, resume, and compare with a run that nobody killed
signals   SIGTERM, SIGUSR1, Ctrl-C at random moments, on one rank or --ranks 2
ranks     a rank killed, hung, apart …, torchrun killed: on 2 ranks, 4, and 4 of two agents
fuzz      random settings, sizes, weights, files, pickles, configs and names: refused with a reason, or right
"""

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

VERBS = ('kill', 'signals', 'ranks', 'fuzz')


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('verb', choices=VERBS)
    parser.add_argument('--n', type=int, default=20, help='how many')
    parser.add_argument('--seed', type=int, default=0, help='of the moments and faults')
    parser.add_argument('--ranks', type=int, help='processes of a run (signals)')
    args = parser.parse_args()
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / 'tests')]
    trial = importlib.import_module(f'trials.{args.verb}')
    more = dict(ranks=args.ranks) if args.ranks else {}
    with tempfile.TemporaryDirectory(prefix='stress_') as folder:
        good = trial.main(args.n, args.seed, Path(folder), **more)
        if not good:
            print((Path(folder) / 'log').read_text()[-4000:], file=sys.stderr)
    return not good


if __name__ == '__main__':
    sys.exit(main())

"""Inject hundreds of faults: `python tools/stress.py kill --n 200 --seed 0`.

kill      kill -9 around saves, resume, compare with a run that was not killed
signals   SIGTERM, SIGUSR1, Ctrl-C at random moments, on one rank or --ranks 2
ranks     a rank killed, hanging or diverged, torchrun killed; 2 ranks, 4, and 4 of two agents
fuzz      random settings, sizes, weights, files, pickles, configs and names

The last line counts the faults. The exit code is 1 if anything went wrong.
"""

import importlib
import sys
import tempfile
import time
from pathlib import Path

from command_line import make_parser

ROOT = Path(__file__).parents[1]
TRIALS = ('kill', 'signals', 'ranks', 'fuzz')


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument('trial', choices=TRIALS)
    parser.add_argument('--n', type=int, default=20, help='number of faults or cases')
    parser.add_argument('--seed', type=int, default=0, help='seed of the moments and faults')
    parser.add_argument('--ranks', type=int, help='processes per run (signals)')
    args = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]
    trial = importlib.import_module(f'trials.{args.trial}')
    options = dict(ranks=args.ranks) if args.ranks else {}
    with tempfile.TemporaryDirectory(prefix='stress_') as folder:
        start = time.monotonic()
        faults, note = trial.main(args.n, args.seed, Path(folder), **options)
        counts = ', '.join(f'{number} {kind}' for kind, number in faults.items())
        seconds = time.monotonic() - start
        print(f'{args.n} tried, {counts}; {note}; {seconds:.0f} s', flush=True)
        failed = any(faults.values())
        if failed:
            print((Path(folder) / 'log').read_text()[-4000:], file=sys.stderr)
    return failed


if __name__ == '__main__':
    sys.exit(main())

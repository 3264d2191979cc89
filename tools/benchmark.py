"""Times the project beside other BEiTs: they take turns in one process, and what counts is the ratio of each pair.

    python tools/benchmark.py step                    # pre-training steps of BEiT-B, bf16 and f32, tokens online and cached
    python tools/benchmark.py step --compile          # everyone's blocks compiled (needs a C++ compiler; minutes to start)
    python tools/benchmark.py data mask --json speed.json
    python tools/benchmark.py memory tokenize inference segment growth
    python tools/benchmark.py step --quick            # a toy: shows that it works, not how fast

A ratio above 1 says that ours is faster; medians over rounds, with the least and the greatest. The share of the peak is of a
large matrix product of the same dtype and threads, timed in the same rounds. docs/performance.md explains the cases.
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks import growth, images, pipelines, steps
from benchmarks.turns import Settings, show

VERBS = dict(
    step=steps.step,
    memory=steps.memory,
    tokenize=steps.tokenize,
    mask=pipelines.mask,
    data=pipelines.data,
    inference=images.inference,
    segment=images.segment,
    growth=growth.growth,
)
PEERS = ('hf', 'timm', 'mmpretrain', 'mmseg', 'torchvision')


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('verbs', nargs='+', choices=VERBS, metavar='VERB', help=', '.join(VERBS))
    parser.add_argument(
        '--peers',
        default=','.join(PEERS),
        help='which, by commas; "" for none (default: %(default)s)',
    )
    parser.add_argument('--json', type=Path, help='the rows go into this file too')
    parser.add_argument('--batch', type=int, help='images of a step or an inference (default: 8)')
    parser.add_argument('--rounds', type=int, help='turns of each (default: 5)')
    parser.add_argument(
        '--compile', action='store_true', help='compile the blocks and tokenizers of all'
    )
    parser.add_argument('--quick', action='store_true', help='a toy model, one round')
    args = parser.parse_args(arguments)
    peers = [name for name in args.peers.split(',') if name]
    if unknown := sorted(set(peers) - set(PEERS)):
        parser.error(f'--peers {",".join(unknown)}: choose among {",".join(PEERS)}')
    settings = Settings(
        peers=peers,
        batch=args.batch or (2 if args.quick else 8),
        rounds=args.rounds or (1 if args.quick else 5),
        compile=args.compile,
        quick=args.quick,
    )
    rows = []
    for verb in args.verbs:
        for row in VERBS[verb](settings):
            print(show(row), flush=True)
            rows.append(row)
            if args.json:  # after each: a long run that is cut off has not been for nothing
                args.json.write_text(json.dumps(rows, indent=1) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())

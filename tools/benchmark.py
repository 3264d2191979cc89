"""Compare the speed and memory of BEiT here and in other libraries, in turns in one process.

    python tools/benchmark.py step                # pre-training steps of BEiT-B, bf16 and f32
    python tools/benchmark.py step --compile      # with compiled blocks (needs a C++ compiler)
    python tools/benchmark.py data mask memory tokenize inference segment --json speed.json
    python tools/benchmark.py step --quick        # a toy model: shows that it works, not how fast

A ratio above 1 means that ours is faster: median over rounds (lowest … highest). The share of the
peak is that of a large matrix product in the same precision. docs/performance.md explains the rows.
"""

import json
from pathlib import Path

from benchmarks import inference, pipelines, training
from benchmarks.timing import LIBRARIES, BenchmarkSettings, show
from command_line import make_parser, positive

VERBS = dict(
    step=training.step,
    memory=training.memory,
    tokenize=training.tokenize,
    mask=pipelines.mask,
    data=pipelines.data,
    inference=inference.inference,
    segment=inference.segment,
)


def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add('verbs', nargs='+', choices=VERBS, metavar='VERB', help=', '.join(VERBS))
    names = ','.join(LIBRARIES)
    add('--libraries', default=names, help='separated by commas, "" for none (%(default)s)')
    add('--json', type=Path, help='also write the rows to this file')
    add('--batch', type=positive, help='images per step or inference (default: 8)')
    add('--rounds', type=positive, help='turns of each (default: 5)')
    add('--compile', action='store_true', help='compile the blocks and tokenizers of all')
    add('--quick', action='store_true', help='a toy model, one round')
    args = parser.parse_args(arguments)
    libraries = [name for name in args.libraries.split(',') if name]
    if unknown := sorted(set(libraries) - LIBRARIES.keys()):
        parser.error(f'--libraries {",".join(unknown)}: expected some of {names}')
    settings = BenchmarkSettings(
        libraries=libraries,
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
            if args.json:  # after each row, since a long run may be interrupted
                args.json.write_text(json.dumps(rows, indent=1) + '\n')


if __name__ == '__main__':
    main()

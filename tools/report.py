"""Write a page about one run: `python tools/report.py WORK_DIR`; losses, rates, pictures, config, environment.

WORK_DIR is what tools/train.py wrote into, finished or not, or a stage of a recipe. The report of a whole recipe is written by
`tools/recipe.py run`.
"""

import sys
from argparse import ArgumentParser
from pathlib import Path


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', metavar='WORK_DIR', type=Path)
    parser.add_argument('--out', type=Path, help='page (default: WORK_DIR/report.html)')
    args = parser.parse_args(arguments)
    from reports import run_report  # imports torch and the host libraries, which takes seconds

    out = args.out or args.work_dir / 'report.html'
    try:
        run_report.write(out, args.work_dir)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f'error: {" ".join(str(error).split())}')
    print(f'{out}: open it in a browser')


if __name__ == '__main__':
    main()

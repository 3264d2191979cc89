"""Write a short config for your images, with the reason for each choice beside it.

    python tools/new_config.py tokenizer photos
    python tools/new_config.py pretrain photos --weights work_dirs/tokenizer
    python tools/new_config.py classification pets --weights work_dirs/pretrain
    python tools/new_config.py segmentation scenes --zero background

DATA is a folder of images at any depth (tokenizer, pretrain); of one folder per class, or with a
table labels.csv (classification); or with the folders images and masks (segmentation). If it has
the sub-folders train and val, they are the splits. Otherwise a tenth of the images is held out, and
lists are written beside the config. docs/own_images.md shows all layouts.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from command_line import errors_on_one_line, make_parser
from mmengine.config import Config
from starter.models import find_device
from starter.write import TASK_TITLES, next_commands, write_config

from beit_mm.config_check.preflight import preflight
from beit_mm.config_check.report import format_list


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument('task', choices=TASK_TITLES)
    parser.add_argument('data', type=Path, help='folder of the images')
    parser.add_argument(
        '--weights',
        help='what training starts from: a name of docs/models.md, hf://ORG/NAME, a file, '
        'the folder of a run, or none. For pretrain: the tokenizer',
    )
    parser.add_argument('--out', type=Path, help='config to write, default: my_TASK.py')
    parser.add_argument('--masks', type=Path, help='folder of the masks, if it is elsewhere')
    parser.add_argument(
        '--zero', choices=('background', 'ignore'), help='meaning of 0 in the masks'
    )
    parser.add_argument(
        '--colors', type=Path, help='table of the classes: lines `name R G B` or `name VALUE`'
    )
    args = parser.parse_args(arguments)
    args.out = args.out or Path(f'my_{args.task}.py')
    return args


def ask_zero(given: str | None) -> Callable[[str], str]:
    """Return a function that returns the meaning of 0: as given, or as typed on a terminal."""

    def ask(values: str) -> str:
        if given:
            return given
        if not sys.stdin.isatty():
            raise ValueError(
                f'{values}. Is 0 a class, such as the background, or is it unlabeled? Pass '
                '--zero background or --zero ignore'
            )
        answer = input(f'{values}. Is 0 a class, such as the background? [y/n] ')
        return 'background' if answer.strip().lower().startswith('y') else 'ignore'

    return ask


@errors_on_one_line()
def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    if not args.data.is_dir():
        raise ValueError(f'{args.data} is no folder: expected the folder of the images')
    if args.out.exists():
        raise ValueError(f'{args.out} exists: remove it, or pass --out with another name')
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_config(
        args.task, args.data, args.out, args.weights, find_device(), args.masks,
        ask_zero(args.zero), args.colors,
    )  # fmt: skip
    cfg = Config.fromfile(args.out)
    findings = preflight(cfg)
    if findings:
        print(format_list(cfg, findings))
    print(f'wrote {args.out}. Next:')
    for line in next_commands(args.task, args.out):
        print(f'  {line}')
    return int(any(finding.stops for finding in findings))


if __name__ == '__main__':
    sys.exit(main())

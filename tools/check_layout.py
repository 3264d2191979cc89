"""Check that the folders of a data set are as the configs expect. Each fault comes with its fix.

    python tools/check_layout.py imagenet data/imagenet
    python tools/check_layout.py imagenet22k data/imagenet22k
    python tools/check_layout.py ade20k data/ade/ADEChallengeData2016

For your own images in the same layout add `--classes N --any-count`, and `--zero-is-class` if 0 is
a class in the label maps. Reads up to 2000 files per split. docs/datasets.md shows the layouts. The
exit status is 1 if there is a fault.
"""

import sys
from pathlib import Path

from command_line import make_parser, positive
from image_folders.layout import check_ade20k, check_imagenet

NUM_CLASSES = dict(imagenet=1000, imagenet22k=21_841, ade20k=150)
COUNTS = dict(  # kind → split → number of images
    imagenet=dict(train=1_281_167, val=50_000),
    imagenet22k=dict(train=14_197_122),
    ade20k=dict(training=20_210, validation=2_000),
)


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add('kind', choices=NUM_CLASSES)
    add('root', type=Path, help='the folder that configs call data_root')
    add('--classes', type=positive, help='number of classes (default: of the data set)')
    add('--any-count', action='store_true', help='accept any number of images')
    add('--zero-is-class', action='store_true', help='0 is a class in label maps')
    args = parser.parse_args(arguments)
    if args.zero_is_class and args.kind != 'ade20k':
        parser.error('--zero-is-class is for label maps: use it with ade20k')
    if not args.root.is_dir():
        parser.error(f'{args.root} is not a folder')
    counts = COUNTS[args.kind]
    if args.any_count:
        counts = dict.fromkeys(counts)
    classes = args.classes or NUM_CLASSES[args.kind]
    if args.kind == 'ade20k':
        found = check_ade20k(args.root, classes, counts, args.zero_is_class)
    else:
        found = check_imagenet(args.root, classes, counts)
    faults = 0
    for text, is_error in found:
        faults += is_error
        print(f'{"fault" if is_error else "remark"}: {text}', flush=True)
    print(f'{args.root}: {faults or "no"} faults')
    return int(faults > 0)


if __name__ == '__main__':
    sys.exit(main())

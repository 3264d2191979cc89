"""Read every file of a config's data as training would, and list what is wrong.

    python tools/check_data.py CONFIG
    python tools/check_data.py CONFIG --split val --jobs 16

Faults are: files that cannot be read, sizes and labels that do not fit, names that occur twice,
label maps without a label, classes without an image. The exit status is 1 if there are faults.
"""

import beit_mm.registry  # noqa: F401  names the packages that are missing

# isort: split
import os
import sys

from command_line import make_parser, positive
from image_folders.samples import check_split
from mmengine.registry import init_default_scope

from beit_mm.engine.launch import load_config
from beit_mm.utils.cfg_options import Options

SPLITS = ('train', 'val', 'test')


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add('config', help='config file')
    add('--split', choices=SPLITS, help='only this one (default: all that differ)')
    add('--jobs', type=positive, default=os.cpu_count() or 1, help='processes')
    add('--cfg-options', nargs='+', action=Options, help='KEY=VALUE … of the config')
    args = parser.parse_args(arguments)
    cfg = load_config(args)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    splits = [split for split in SPLITS if cfg.get(f'{split}_dataloader')]
    if args.split and args.split not in splits:
        parser.error(f'{args.config} has no {args.split}_dataloader')
    if args.split:
        splits = [args.split]
    elif 'test' in splits and cfg.test_dataloader == cfg.get('val_dataloader'):
        splits.remove('test')
    faults = [fault for split in splits for fault in check_split(cfg, split, args.jobs)]
    for fault in faults:
        print(f'fault: {fault}')
    print(f'{len(faults) or "no"} faults')
    return int(bool(faults))


if __name__ == '__main__':
    sys.exit(main())

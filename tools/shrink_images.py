"""Copy images with their longer side at most N pixels, so that no epoch decodes large photographs.

    python tools/shrink_images.py photos data/photos --side 768
    python tools/shrink_images.py scenes/images data/images --side 1024 \
        --masks scenes/annotations data/annotations

Sub-folders keep their names, and images their channels. EXIF orientations are applied. Small images
are copied byte for byte. Others are resized with Lanczos, and written as JPEG of quality 95 if they
were JPEG, else as PNG with the same stem.

With --masks, the label map of the same name is turned and resized with its image: nearest neighbor,
PNG, the same values. Existing copies of the right size are kept, so the same command continues an
interrupted one. Files that cannot be copied are listed, and the exit status is then 1.
"""

import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from command_line import make_parser, positive
from image_folders.shrink import resized_name, shrink
from mmengine.utils import ProgressBar

from beit_mm.data.image_files import SUFFIXES


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add('source', type=Path)
    add('target', type=Path)
    add('--side', type=positive, required=True, help='longer side in pixels, at most')
    add('--masks', type=Path, nargs=2, metavar=('SOURCE', 'TARGET'))
    add('--jobs', type=positive, default=os.cpu_count() or 1, help='processes')
    args = parser.parse_args(arguments)
    masks, mask_target = args.masks or (None, None)
    for source, target in ((args.source, args.target), (masks, mask_target)):
        if source and not source.is_dir():
            parser.error(f'{source} is not a folder')
        if source and target.resolve().is_relative_to(source.resolve()):
            parser.error(f'{target} lies in {source}: pass another target')
    files = (path for path in args.source.rglob('*') if path.suffix.lower() in SUFFIXES)
    names = sorted(str(path.relative_to(args.source)) for path in files)
    copies = Counter(map(resized_name, names))
    if twice := [name for name in names if copies[resized_name(name)] > 1]:
        parser.error(f'{", ".join(twice[:5])}: their copies can get the same name. Rename them')

    faults, bar = [], ProgressBar(len(names), file=sys.stderr)
    folders = dict(source=args.source, target=args.target, masks=masks, mask_target=mask_target)
    with ProcessPoolExecutor(args.jobs) as pool:
        for fault in pool.map(partial(shrink, **folders, side=args.side), names, chunksize=4):
            faults += [fault] if fault else []
            bar.update()
    print(file=sys.stderr)
    for fault in faults:
        print(f'fault: {fault}')
    print(f'{args.target}: {len(names) - len(faults)} of {len(names)} files')
    return int(bool(faults))


if __name__ == '__main__':
    sys.exit(main())

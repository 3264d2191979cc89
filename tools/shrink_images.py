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

import argparse
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from mmengine.utils import ProgressBar
from PIL import Image, ImageOps

from beit_mm.data.image_files import (
    SUFFIXES,
    BadSample,
    exif_orientation,
    expand_palette,
    has_16_bits_per_channel,
)
from beit_mm.data.label_files import read_labels

JPEG = ('.jpg', '.jpeg')
MODES = ('L', 'LA', 'RGB', 'RGBA', 'CMYK')  # 8 bits per channel
Image.MAX_IMAGE_PIXELS = None  # large images are what this tool is for


def resized_name(name: str) -> str:
    """Return the name of an image's copy if it is resized."""
    path = Path(name)
    return name if path.suffix.lower() in JPEG else str(path.with_suffix('.png'))


def shrink(
    name: str, source: Path, target: Path, masks: Path | None, mask_target: Path | None, side: int
) -> str | None:
    """Write the copies of an image and of its label map. Return why it is not possible, or None."""
    try:
        with Image.open(source / name) as image:
            has_16_bits, orientation = has_16_bits_per_channel(image), exif_orientation(image)
            shown = image.size[::-1] if orientation >= 5 else image.size
            scale = min(side / max(shown), 1)
            size = tuple(max(round(length * scale), 1) for length in shown)
            if masks:  # first, since an image without its label map would be worse than none
                mask = Path(name).with_suffix('.png')
                labels = read_labels(str(masks / mask), shown[::-1], orientation)
            if size == image.size and orientation == 1:
                write(target / name, size, partial(shutil.copyfile, source / name))
            elif has_16_bits or expand_palette(image).mode not in MODES:
                return f'{source / name}: mode {image.mode}, expected 8 bits per channel'
            else:
                write(target / resized_name(name), size, partial(save_resized, image, size))
        if masks:
            small = Image.fromarray(labels).resize(size, Image.Resampling.NEAREST)
            write(mask_target / mask, size, small.save)
    except (BadSample, OSError) as error:
        return f'{source / name}: {error}'
    return None


def save_resized(image: Image.Image, size: tuple[int, int], path: Path) -> None:
    image = ImageOps.exif_transpose(expand_palette(image))
    bands = [band.resize(size, Image.Resampling.LANCZOS) for band in image.split()]
    options = dict(quality=95, subsampling=0) if path.suffix.lower() in JPEG else {}
    Image.merge(image.mode, bands).save(path, **options)


def write(path: Path, size: tuple[int, int], save: Callable[[Path], object]) -> None:
    """Call `save` with a temporary name, then rename it to `path`; not if it has this size."""
    if path.exists():
        with Image.open(path) as copy:
            if copy.size == size:
                return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f'.{os.getpid()}{path.suffix}')
    try:
        save(draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('source', type=Path)
    parser.add_argument('target', type=Path)
    parser.add_argument('--side', type=int, required=True, help='longer side in pixels, at most')
    parser.add_argument('--masks', type=Path, nargs=2, metavar=('SOURCE', 'TARGET'))
    parser.add_argument('--jobs', type=int, default=os.cpu_count() or 1, help='processes')
    args = parser.parse_args(arguments)
    if args.side < 16:
        parser.error(f'--side {args.side}: expected at least 16 pixels')
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

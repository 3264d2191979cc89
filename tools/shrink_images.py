"""Copy a folder of images with their longer side at most so many pixels, once, so that no epoch decodes large photographs.

    python tools/shrink_images.py photos data/photos --side 768
    python tools/shrink_images.py scenes/annotations data/scenes/annotations --side 1024 --masks

Folders below keep their names. EXIF orientation is applied. Images that are small enough are copied byte for byte. Large ones are
resized with PIL's Lanczos filter and written as JPEG of quality 95 if they were JPEG, else as PNG under the same stem.
With `--masks` files are label maps: nearest neighbor, PNG, the same values. Resize images and masks with the same --side.

Files that exist in the target are skipped, so the same command continues an interrupted one. If a file cannot be read, it is
named and the exit status is 1.
"""

import argparse
import os
import shutil
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from mmengine.utils import ProgressBar
from PIL import Image

from beit_mm.data.reading import MAX_PIXELS, SUFFIXES, BadSample, decode_image, decode_labels, read_bytes

JPEG = ('.jpg', '.jpeg')
Image.MAX_IMAGE_PIXELS = None  # `decode_image` has a limit of its own


def shrunk(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return (width, height) with the longer one at most `side`, of the same shape."""
    scale = min(side / max(size), 1)
    return tuple(max(round(length * scale), 1) for length in size)


def target_of(name: str, masks: bool) -> str:
    """Return the name of the copy, relative to the target folder."""
    path = Path(name)
    return str(path if not masks and path.suffix.lower() in JPEG else path.with_suffix('.png'))


def shrink(name: str, source: Path, target: Path, side: int, masks: bool) -> str | None:
    """Write the copy of one file. Return what is wrong with the file, or None."""
    path, place = source / name, target / target_of(name, masks)
    if place.exists() or (target / name).exists():
        return None
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = place.with_name(f'.{os.getpid()}{place.suffix}')
    try:
        content = read_bytes(str(path))
        with Image.open(path) as image:
            size, orientation = image.size, image.getexif().get(0x0112, 1)
        if max(size) <= side and orientation == 1:
            shutil.copyfile(path, beside)
            os.replace(beside, target / name)
            return None
        if masks:
            pixels = decode_labels(str(path), content, size if orientation in (5, 6, 7, 8) else size[::-1])
        else:
            pixels = np.ascontiguousarray(decode_image(str(path), content, 4 * MAX_PIXELS)[0][..., ::-1])
        image = Image.fromarray(pixels)
        small = image.resize(shrunk(image.size, side), Image.Resampling.NEAREST if masks else Image.Resampling.LANCZOS)
        small.save(beside, **(dict(quality=95, subsampling=0) if place.suffix.lower() in JPEG else {}))
        os.replace(beside, place)
    except Image.UnidentifiedImageError:
        return f'{path} is no image'
    except (BadSample, OSError) as error:
        beside.unlink(missing_ok=True)
        return str(error)
    return None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', type=Path)
    parser.add_argument('target', type=Path)
    parser.add_argument('--side', type=int, required=True, help='pixels of the longer side, at most')
    parser.add_argument('--masks', action='store_true', help='the files are label maps')
    parser.add_argument('--jobs', type=int, default=os.cpu_count() or 1, help='processes (default: one per core)')
    args = parser.parse_args(arguments)
    if not args.source.is_dir():
        parser.error(f'{args.source} is not a folder')
    if args.target.resolve().is_relative_to(args.source.resolve()):
        parser.error(f'{args.target} lies in {args.source}: give another target')
    names = sorted(
        str(path.relative_to(args.source))
        for path in args.source.rglob('*')
        if path.suffix.lower() in SUFFIXES and path.suffix != '.npy'
    )
    copies = Counter(target_of(name, args.masks) for name in names)
    if twice := [name for name in names if copies[target_of(name, args.masks)] > 1][:5]:
        parser.error(f'{", ".join(twice)}: some of them would get the same name, rename them')
    bar, faults = ProgressBar(len(names), file=sys.stderr), []
    work = partial(shrink, source=args.source, target=args.target, side=args.side, masks=args.masks)
    with ProcessPoolExecutor(args.jobs) as pool:
        for fault in pool.map(work, names, chunksize=4):
            faults += [fault] if fault else []
            bar.update()
    print(file=sys.stderr)
    for fault in faults:
        print(f'fault: {fault}')
    print(f'{args.target}: {len(names) - len(faults)} of {len(names)} files')
    return int(bool(faults))


if __name__ == '__main__':
    sys.exit(main())

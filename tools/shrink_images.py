"""Copy images with their longer side at most so many pixels, once, so that no epoch decodes large photographs.

    python tools/shrink_images.py photos data/photos --side 768
    python tools/shrink_images.py scenes/images data/images --side 1024 --masks scenes/annotations data/annotations

Folders below keep their names, and images their channels (gray, RGB, RGBA, …). EXIF orientation is applied. Images that are
small enough are copied byte for byte. Large ones are resized with Lanczos and written as JPEG of quality 95 if they were JPEG,
else as PNG under the same stem.

With --masks each image has a label map of the same name there, which is turned and resized with it: nearest neighbor, PNG, the
same values. Copies of the right size are kept, so the same command continues an interrupted one. Files that cannot be copied
are named, and the exit status is 1.
"""

import argparse
import os
import shutil
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from mmengine.utils import ProgressBar
from PIL import Image, ImageOps

from beit_mm.data.reading import SUFFIXES, BadSample, decode_labels, read_bytes

JPEG = ('.jpg', '.jpeg')
MODES = ('L', 'LA', 'RGB', 'RGBA', 'CMYK')  # 8 bits per channel
Image.MAX_IMAGE_PIXELS = None  # shrinking large images is what this is for


def shrunk(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return (width, height) with the longer one at most `side`, of the same shape."""
    scale = min(side / max(size), 1)
    return tuple(max(round(length * scale), 1) for length in size)


def copy_of(name: str) -> str:
    """Return the name of an image's copy if it is resized."""
    path = Path(name)
    return name if path.suffix.lower() in JPEG else str(path.with_suffix('.png'))


def shrink(
    name: str, source: Path, target: Path, masks: Path | None, mask_target: Path | None, side: int
) -> str | None:
    """Write the copies of an image and of its label map. Return what is wrong with them, or None."""
    try:
        with Image.open(source / name) as image:
            deep = ';16' in str(image.tile)  # asking a PNG for its EXIF tags decodes it
            orientation = image.getexif().get(0x0112, 1)
            shown = image.size[::-1] if orientation in (5, 6, 7, 8) else image.size
            size = shrunk(shown, side)
            if masks:  # first: an image without its label map would be worse than none
                path = (masks / name).with_suffix('.png')
                ids = decode_labels(str(path), read_bytes(str(path)), shown[::-1], orientation)
            if size == image.size and orientation == 1:
                _write(target / name, size, lambda beside: shutil.copyfile(source / name, beside))
            else:
                _write(
                    target / copy_of(name),
                    size,
                    partial(_save, image, deep, size, str(source / name)),
                )
        if masks:
            small = Image.fromarray(ids).resize(size, Image.Resampling.NEAREST)
            _write((mask_target / name).with_suffix('.png'), size, small.save)
    except Image.UnidentifiedImageError:
        return f'{source / name} is no image that Pillow reads'
    except (BadSample, OSError) as error:
        return str(error)
    return None


def _save(image: Image.Image, deep: bool, size: tuple[int, int], name: str, beside: Path) -> None:
    image = image.convert({'1': 'L', 'P': None, 'PA': 'RGBA'}.get(image.mode, image.mode))
    if image.mode not in MODES or deep:
        raise BadSample(
            f'{name} has mode {image.mode} or 16 bits, expected 8 bits per channel ({", ".join(MODES)})'
        )
    turned = ImageOps.exif_transpose(image)
    bands = [band.resize(size, Image.Resampling.LANCZOS) for band in turned.split()]
    quality = dict(quality=95, subsampling=0) if beside.suffix.lower() in JPEG else {}
    Image.merge(image.mode, bands).save(beside, **quality)


def _write(place: Path, size: tuple[int, int], save) -> None:
    """Call `save` with a name beside `place`, then rename; not if there is an image of this size."""
    if place.exists():
        with Image.open(place) as there:
            if there.size == size:
                return
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = place.with_name(f'.{os.getpid()}{place.suffix}')
    try:
        save(beside)
        os.replace(beside, place)
    finally:
        beside.unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('source', type=Path)
    parser.add_argument('target', type=Path)
    parser.add_argument(
        '--side', type=int, required=True, help='pixels of the longer side, at most'
    )
    parser.add_argument(
        '--masks',
        type=Path,
        nargs=2,
        default=(None, None),
        metavar=('SOURCE', 'TARGET'),
        help='label maps',
    )
    parser.add_argument(
        '--jobs', type=int, default=os.cpu_count() or 1, help='processes (default: one per core)'
    )
    args = parser.parse_args(arguments)
    if args.side < 16:
        parser.error(f'--side {args.side}: expected at least 16 pixels')
    for source, target in ((args.source, args.target), args.masks):
        if source and not source.is_dir():
            parser.error(f'{source} is not a folder')
        if source and target.resolve().is_relative_to(source.resolve()):
            parser.error(f'{target} lies in {source}: give another target')
    names = sorted(
        str(path.relative_to(args.source))
        for path in args.source.rglob('*')
        if path.suffix.lower() in SUFFIXES
    )
    copies = Counter(copy_of(name) for name in names)
    if twice := [name for name in names if copies[copy_of(name)] > 1][:5]:
        parser.error(f'{", ".join(twice)}: some of them would get the same name, rename them')
    bar, faults = ProgressBar(len(names), file=sys.stderr), []
    masks, mask_target = args.masks
    work = partial(
        shrink,
        source=args.source,
        target=args.target,
        masks=masks,
        mask_target=mask_target,
        side=args.side,
    )
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

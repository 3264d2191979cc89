"""Copies of an image and of its label map with a largest side."""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from PIL import Image, ImageOps

from beit_mm.data.image_files import (
    BadSample,
    exif_orientation,
    expand_palette,
    has_16_bits_per_channel,
)
from beit_mm.data.label_maps import read_labels

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
                _write(target / name, size, partial(shutil.copyfile, source / name))
            elif has_16_bits or expand_palette(image).mode not in MODES:
                return f'{source / name}: mode {image.mode}, expected 8 bits per channel'
            else:
                _write(target / resized_name(name), size, partial(_save_resized, image, size))
        if masks:
            small = Image.fromarray(labels).resize(size, Image.Resampling.NEAREST)
            _write(mask_target / mask, size, small.save)
    except (BadSample, OSError) as error:
        return f'{source / name}: {error}'
    return None


def _save_resized(image: Image.Image, size: tuple[int, int], path: Path) -> None:
    image = ImageOps.exif_transpose(expand_palette(image))
    bands = [band.resize(size, Image.Resampling.LANCZOS) for band in image.split()]
    options = dict(quality=95, subsampling=0) if path.suffix.lower() in JPEG else {}
    Image.merge(image.mode, bands).save(path, **options)


def _write(path: Path, size: tuple[int, int], save: Callable[[Path], object]) -> None:
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

"""Reading of images: correctly, or with a BadSample that names the file and the reason."""

import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import cv2
import numpy as np
from mmengine import fileio
from mmengine.logging import print_log
from PIL import Image
from torch.utils.data import get_worker_info

# Files that data sets of folders list. Pillow reads more, which are reported before training.
SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.ppm', '.pgm', '.tif', '.tiff', '.npy')
COLOR_TYPES = ('color', 'unchanged')  # of LoadImageFromFile
MAX_PIXELS = 89_478_485  # Pillow's default limit: 0.25 GB as RGB
MAX_ASPECT = 100  # at 256 pixels on its short side, an image of 6000×1 would take gigabytes
FILE_ENDS = dict(JPEG=b'\xff\xd9', MPO=b'\xff\xd9', PNG=b'IEND\xaeB`\x82')  # of an intact file
NPY_START, TIFF_STARTS = b'\x93NUMPY', (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
BYTES_ADVICE = 'Scale all files alike to 0 … 255 and save them as uint8'
BANDS_ADVICE = "For other bands set LoadImageFromFile(color_type='unchanged'), see docs/datasets.md"


class BadSample(ValueError):
    """A file that cannot be used. The message names the file and the reason."""


def read_image(
    path: str,
    color_type: str = 'color',
    max_pixels: int = MAX_PIXELS,
    backend_args: dict | None = None,
) -> tuple[np.ndarray, int]:
    """Read an image as its EXIF tag shows it. Returns it, uint8, and the orientation, 1 … 8.

    With `color_type='color'` it is BGR [H, W, 3]: alpha is dropped, and of 16 bits the upper 8 are
    kept. With 'unchanged' it has the bands of the file, [H, W] or [H, W, bands]: three as BGR, as
    everywhere in OpenMMLab, others in their order. Raises BadSample.
    """
    content, orientation = read_bytes(path, backend_args), 1
    if content.startswith(NPY_START):
        with decoding(path):
            array = np.load(io.BytesIO(content), allow_pickle=False)
    elif color_type == 'unchanged' and content.startswith(TIFF_STARTS):
        array = _decode_tiff(path, content, max_pixels)
    else:
        with open_image(path, content, max_pixels) as image:
            has_16_bits = has_16_bits_per_channel(image)
            orientation = exif_orientation(image)
            is_color = color_type == 'color'
            pixels = _decode_color(image, content) if is_color else expand_palette(image)
            array = np.asarray(pixels)
        if has_16_bits and (color_type == 'unchanged' or not array.any()):
            raise BadSample(f'{path} has 16 bits per channel, expected 8. {BYTES_ADVICE}')

    if array.dtype != np.uint8:
        raise BadSample(f'{path} has values of {array.dtype}, expected uint8. {BYTES_ADVICE}')
    if array.ndim not in (2, 3) or not array.size:
        raise BadSample(f'{path} has the shape {array.shape}, expected [H, W] or [H, W, bands]')
    if color_type == 'color' and array.shape[2:] != (3,):
        raise BadSample(f'{path} has the shape {array.shape}, expected [H, W, 3]. {BANDS_ADVICE}')
    check_size(path, array.shape[1], array.shape[0], max_pixels)
    if array.shape[2:] == (1,):
        array = array[..., 0]
    if array.shape[2:] == (3,):
        array = array[..., ::-1]
    return apply_orientation(array, orientation), orientation


def read_bytes(path: str, backend_args: dict | None = None) -> bytes:
    try:
        content = fileio.get(path, backend_args=backend_args)
    except OSError as error:
        link = f', a link to {os.readlink(path)},' if os.path.islink(path) else ''
        raise BadSample(f'{path}{link} cannot be read: {error.strerror or error}') from error
    if not content:
        raise BadSample(f'{path} is empty. Copy or download it again')
    return content


def read_shape(path: str) -> tuple[tuple[int, int], int] | None:
    """Return (height, width) of an image as shown, and its EXIF orientation; None if unreadable."""
    try:
        with Image.open(path) as image:
            orientation = exif_orientation(image)
            return image.size if orientation >= 5 else image.size[::-1], orientation
    except Exception:  # it is reported when the image is read
        return None


@contextmanager
def decoding(path: str, content: bytes = b'') -> Iterator[None]:
    """Turn every exception of a decoder into a BadSample that names the file."""
    try:
        yield
    except BadSample:
        raise
    except Image.UnidentifiedImageError as error:
        if content.startswith(TIFF_STARTS):
            reason = 'is a TIFF file of a kind that Pillow cannot read: save it with 8 bits as RGB'
        else:
            reason = f'is not an image: it starts with {content[:16]!r}'
        raise BadSample(f'{path} {reason}') from error
    except Exception as error:  # OSError, SyntaxError, struct.error and more, by format
        raise BadSample(f'{path} cannot be decoded ({error}). Copy or download it again') from error


@contextmanager
def open_image(path: str, content: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """Open an image with Pillow, which decodes it when its pixels are used."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # replaced by `max_pixels`
    try:
        with decoding(path, content), Image.open(io.BytesIO(content)) as image:
            check_size(path, image.width, image.height, max_pixels)
            yield image
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def check_size(path: str, width: int, height: int, max_pixels: int) -> None:
    """Raise BadSample if an image has too many pixels or is a strip."""
    if width * height > max_pixels:
        limit = f'at most {max_pixels} pixels'
    elif max(width, height) > MAX_ASPECT * min(width, height):
        limit = f'a longer side of at most {MAX_ASPECT} times the shorter'
    else:
        return
    raise BadSample(f'{path} has {width}×{height} pixels, expected {limit}. Shrink or crop it')


def has_16_bits_per_channel(image: Image.Image) -> bool:
    """Call this before `exif_orientation`, which decodes a PNG to 8 bits."""
    return ';16' in image.mode or ';16' in str(image.tile)


def exif_orientation(image: Image.Image) -> int:
    value = image.getexif().get(0x0112, 1)
    return value if value in range(1, 9) else 1


def apply_orientation(array: np.ndarray, orientation: int) -> np.ndarray:
    """Return an array [H, W, …] as its EXIF orientation shows it; from 5 on, [W, H, …]."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return np.require(array, requirements=['C', 'W'])  # Pillow's arrays are read-only


def expand_palette(image: Image.Image) -> Image.Image:
    """Convert palette indices and bits to bytes per channel."""
    if image.mode == 'P':
        return image.convert()  # to the mode of the palette
    return image.convert({'1': 'L', 'PA': 'RGBA'}.get(image.mode, image.mode))


def _decode_color(image: Image.Image, content: bytes) -> np.ndarray:
    """Decode RGB [H, W, 3] with OpenCV, as mmcv does, or with Pillow where OpenCV is wrong.

    OpenCV is wrong for palettes, alpha, CMYK and truncated files.
    """
    if image.mode in ('I', 'F'):
        raise ValueError(f'it has 32 bits per channel, expected 8. {BYTES_ADVICE}')
    if image.format == 'TIFF' and image.n_frames > 1:
        _warn_of_pages()
    # A few bytes can follow the end of a file.
    if image.mode in ('RGB', 'L') and FILE_ENDS.get(image.format, b'-') in content[-64:]:
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        array = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
        if array is not None:
            return array[..., ::-1]
    if image.mode.startswith('I;16'):  # Pillow would clip the values to 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return np.asarray(image.convert('RGB'))


@cache
def _warn_of_pages() -> None:
    worker = get_worker_info()
    if worker is None or worker.id == 0:  # once per run
        words = 'Some TIFF files have several pages, of which only the first is read. '
        print_log(words + BANDS_ADVICE, 'current', logging.WARNING)


def _decode_tiff(path: str, content: bytes, max_pixels: int) -> np.ndarray:
    """Decode all bands and pages of a TIFF file, [H, W, …], RGB if there are three."""
    import tifffile

    with decoding(path), tifffile.TiffFile(io.BytesIO(content)) as file:
        series = file.series[0]
        y, x = series.axes.index('Y'), series.axes.index('X')
        check_size(path, series.shape[x], series.shape[y], max_pixels)
        return np.moveaxis(series.asarray(), (y, x), (0, 1))

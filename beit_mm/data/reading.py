"""Reading images and label maps: rightly, or with an error that names the file and says what is wrong.

The host's OpenCV decodes what is whole and ordinary, with its own bits and its own speed. Pillow opens what is not a plain
JPEG, which reads the header alone, and decodes what is odd (palette, alpha, CMYK) or does not end as it should, of which
OpenCV gives garbage, a rounded value or no reason.
"""

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

# Files that data sets of folders list. Pillow reads more formats; files of those are named before training.
SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.ppm', '.pgm', '.tif', '.tiff', '.npy')
MAX_PIXELS = (
    89_478_485  # Pillow's own limit, `Image.MAX_IMAGE_PIXELS`: a quarter of a gigabyte as RGB
)
MAX_ASPECT = 100  # resized until its short side has 256 pixels, one of 6000×1 takes gigabytes
IGNORE = 255  # the hosts' id of what is not labelled
# What a whole file ends with; a few bytes may follow it.
_ENDS = dict(JPEG=b'\xff\xd9', MPO=b'\xff\xd9', PNG=b'IEND\xaeB`\x82')
_NPY, _TIFF = b'\x93NUMPY', (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')  # how such files begin
_SCALE = 'Scale all files alike to 0 … 255 and save them as uint8'
MAX_BANDS = 512  # of OpenCV's arrays
OTHER_CHANNELS = (
    "Images with other bands need LoadImageFromFile(color_type='unchanged'), see docs/datasets.md"
)
_LABEL_MODES = ('1', 'L', 'P', 'I', 'I;16', 'I;16B', 'I;16L')  # one number a pixel


class BadSample(ValueError):
    """A file cannot be used; the message names it and says why."""


def read_bytes(path: str, backend_args: dict | None = None) -> bytes:
    """What the file holds. Raises BadSample where there is none, with the target of a broken link."""
    try:
        content = fileio.get(path, backend_args=backend_args)
    except OSError as error:
        link = f', a link to {os.readlink(path)}' if os.path.islink(path) else ''
        raise BadSample(f'{path}{link}, cannot be read: {error.strerror or error}') from error
    if not content:
        raise BadSample(f'{path} is empty: fetch it again')
    return content


@contextmanager
def _opened(path: str, content: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """The image, not yet decoded; all that Pillow raises, here and inside, becomes a BadSample."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # ours is told, and can be set
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > max_pixels:
                raise BadSample(
                    f'{path} is {image.width}×{image.height}, over the limit of {max_pixels} pixels: make it smaller'
                )
            _refuse_strip(path, image.width, image.height)
            yield image
    except BadSample:
        raise
    except Image.UnidentifiedImageError as error:
        raise BadSample(f'{path} is no image: it begins with {content[:16]!r}') from error
    except (
        Exception
    ) as error:  # OSError, SyntaxError, struct.error, …: of whatever the decoder stumbles over
        raise BadSample(f'{path} cannot be decoded ({error}): fetch it again') from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _refuse_strip(path: str, width: int, height: int) -> None:
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadSample(
            f'{path} is {width}×{height}, one side more than {MAX_ASPECT} times the other: cut it'
        )


def _is_deep(image: Image.Image) -> bool:
    """Return whether an image that is not yet decoded has 16 bits per channel; asking a PNG for its EXIF tags decodes it."""
    return ';16' in image.mode or ';16' in str(image.tile)


def _orientation(image: Image.Image) -> int:
    """The EXIF tag, 1 … 8; 1 where there is none."""
    value = image.getexif().get(0x0112, 1)
    return value if value in range(1, 9) else 1


def oriented(array: np.ndarray, orientation: int) -> np.ndarray:
    """[H, W, …] as stored → as the EXIF orientation 1 … 8 says to show it; from 5 on, [W, H, …]."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return np.ascontiguousarray(array)


def _plain_jpeg(content: bytes) -> int:
    """Pixels of a whole JPEG of 8 bits, gray or in colour, that has no EXIF, XMP or Adobe segment; 0 for all else.

    Most files are such, and Pillow takes a tenth of the time of decoding to say so.
    """
    place = 2 if content[:2] == b'\xff\xd8' and _ENDS['JPEG'] in content[-64:] else len(content)
    while content[place : place + 1] == b'\xff' and len(content) > place + 9:
        marker = content[place + 1]
        if marker in (0xC0, 0xC1, 0xC2):  # the frame: precision, height, width, components
            height, width = (
                content[place + 5] << 8 | content[place + 6],
                content[place + 7] << 8 | content[place + 8],
            )
            return height * width if content[place + 4] == 8 and content[place + 9] in (1, 3) else 0
        if marker not in (0xDB, 0xC4, 0xDD, 0xE0, 0xFE):  # tables, restart interval, JFIF, comment
            return 0
        place += 2 + (content[place + 2] << 8 | content[place + 3])
    return 0


def _by_opencv(content: bytes) -> np.ndarray | None:
    """BGR uint8 [H, W, 3] as stored; None where it cannot."""
    return cv2.imdecode(
        np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    )


def decode_image(path: str, content: bytes, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, int]:
    """Decode an image as Pillow and its EXIF tag show it: BGR uint8 [H, W, 3], and the orientation 1 … 8 that was applied.

    Of 16 bits the upper 8 are taken, alpha is dropped; a NumPy array has the bands red, green, blue. Raises BadSample, also for
    16 bits of which the upper 8 are all 0, and for strips with one side more than MAX_ASPECT times the other.
    """
    if content.startswith(_NPY):
        array = _decode_npy(path, content, max_pixels)
        if array.ndim != 3 or array.shape[2] != 3:
            raise BadSample(
                f'{path} has the shape {array.shape}, expected [H, W, 3]. {OTHER_CHANNELS}'
            )
        return array[..., ::-1], 1
    if 0 < _plain_jpeg(content) <= max_pixels and (array := _by_opencv(content)) is not None:
        _refuse_strip(path, array.shape[1], array.shape[0])
        return array, 1
    with _opened(path, content, max_pixels) as image:
        deep = _is_deep(image)
        orientation = _orientation(image)
        if image.mode in ('I', 'F'):
            raise BadSample(f'{path} has 32 bits a pixel (mode {image.mode}): make them 8')
        if image.format == 'TIFF' and image.n_frames > 1:
            _warn_of_pages()
        array = None
        if image.mode in ('RGB', 'L') and _ENDS.get(image.format, b'-') in content[-64:]:
            array = _by_opencv(content)
        if array is None:
            if image.mode.startswith('I;16'):  # Pillow would cut at 255
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            array = np.asarray(image.convert('RGB'))[..., ::-1]
    if deep and not array.any():
        raise BadSample(
            f'{path} has 16 bits, none of them in the upper 8, so it would be black: scale it to 8 bits'
        )
    return oriented(array, orientation), orientation


@cache
def _warn_of_pages() -> None:
    print_log(
        'Some TIFF files have several pages; only the first page is read. ' + OTHER_CHANNELS,
        'current',
        logging.WARNING,
    )


# -- other numbers of channels -----------------------------------------------------------------------------------------


def decode_bands(path: str, content: bytes, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, int]:
    """Decode an image with the bands that are stored: uint8 [H, W] or [H, W, bands], and the EXIF orientation that was applied.

    Three bands are BGR, as everywhere in OpenMMLab; other numbers are in the file's order. Reads PNG and what else Pillow reads,
    TIFF with any number of bands or pages (needs tifffile), and NumPy arrays. Raises BadSample.
    """
    if content.startswith(_NPY):
        array, orientation = _decode_npy(path, content, max_pixels), 1
    elif content.startswith(_TIFF) and not _is_plain(content):
        array, orientation = _decode_tiff(path, content, max_pixels)
    else:
        with _opened(path, content, max_pixels) as image:
            deep, orientation = _is_deep(image), _orientation(image)
            if deep:
                raise BadSample(f'{path} has 16 bits per channel, expected 8. {_SCALE}')
            mode = {'1': 'L', 'P': None, 'PA': 'RGBA'}.get(
                image.mode, image.mode
            )  # None: what its palette has
            array = np.asarray(image.convert(mode))
    _check_bands(path, array, max_pixels)
    array = array[..., 0] if array.shape[2:] == (1,) else array
    return oriented(
        array[..., ::-1] if array.shape[2:] == (3,) else array, orientation
    ), orientation


def _decode_npy(path: str, content: bytes, max_pixels: int) -> np.ndarray:
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except ValueError as error:
        raise BadSample(f'{path} cannot be read as a NumPy array: {error}') from error
    _check_bands(path, array, max_pixels)
    return array


def _is_plain(tiff: bytes) -> bool:
    """Return whether Pillow reads all of a TIFF file: one page of at most four bands."""
    try:
        with Image.open(io.BytesIO(tiff)) as image:
            return image.n_frames == 1 and image.tag_v2.get(277, 1) == len(
                image.getbands()
            )  # samples per pixel
    except (OSError, SyntaxError):
        return False


def _decode_tiff(path: str, content: bytes, max_pixels: int) -> tuple[np.ndarray, int]:
    try:
        import tifffile
    except ImportError:
        raise ImportError(
            f'{path}: TIFF files of any number of bands need tifffile: pip install tifffile'
        ) from None
    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            series = file.series[0]
            if len(file.series) > 1:
                raise BadSample(
                    f'{path} holds {len(file.series)} images of different sizes, expected one: save it as one'
                )
            if series.size > max_pixels * MAX_BANDS:
                raise BadSample(
                    f'{path} is {series.shape}, over the limit of {max_pixels} pixels: make it smaller'
                )
            array, axes, tag = series.asarray(), series.axes, file.pages[0].tags.get('Orientation')
    except BadSample:
        raise
    except Exception as error:  # of whatever the decoder stumbles over
        advice = 'pip install imagecodecs' if 'imagecodecs' in str(error) else 'fetch it again'
        raise BadSample(f'{path} cannot be decoded ({error}): {advice}') from error
    order = sorted(
        range(array.ndim), key=lambda axis: ('YX'.find(axes[axis]) % 3, axis)
    )  # pages and samples come last
    return array.transpose(order), int(tag.value) if tag else 1


def _check_bands(path: str, array: np.ndarray, max_pixels: int) -> None:
    if array.dtype != np.uint8:
        raise BadSample(f'{path} has values of {array.dtype}, expected uint8. {_SCALE}')
    if (
        array.ndim not in (2, 3)
        or not array.size
        or (array.ndim == 3 and array.shape[2] > MAX_BANDS)
    ):
        raise BadSample(
            f'{path} has the shape {array.shape}, expected [H, W] or [H, W, bands], at most {MAX_BANDS} bands'
        )
    if array.shape[0] * array.shape[1] > max_pixels:
        raise BadSample(
            f'{path} is {array.shape[1]}×{array.shape[0]}, over the limit of {max_pixels} pixels: make it smaller'
        )
    _refuse_strip(path, array.shape[1], array.shape[0])


def decode_labels(
    path: str,
    content: bytes,
    shown: tuple[int, int],
    orientation: int = 1,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """A label map in the orientation in which its image is shown → the ids as they are in the file, [H, W].

    Args:
        shown: height and width of the image as shown.
        orientation: the EXIF tag that turned the image, 1 … 8.

    A map may be as the turned image is shown or as it is stored: its size tells. Where it cannot (a square image, one
    that is mirrored or upside down), the two would be mixed up in silence: BadSample, as for all else that is wrong.
    """
    with _opened(path, content, max_pixels) as image:
        if image.mode not in _LABEL_MODES:
            raise BadSample(
                f'{path} is a picture (mode {image.mode}): a label map is one number a pixel, a class id (mode L or P)'
            )
        own = _orientation(image)
        ids = oriented(np.asarray(image), own)
    if ids.ndim != 2:
        raise BadSample(f'{path} has {ids.ndim} dimensions: a label map has height and width')
    if orientation != 1 and own == 1:
        stored = shown[::-1] if orientation >= 5 else shown
        if stored == shown:
            raise BadSample(
                f'{path}: its image is turned by the EXIF orientation {orientation}, and whether the label map is turned as '
                'well cannot be told from the size: turn the pixels of the image and remove the tag'
            )
        if ids.shape == stored:
            ids = oriented(ids, orientation)
    if ids.shape != tuple(shown):
        raise BadSample(
            f'{path} is {ids.shape[1]}×{ids.shape[0]}, its image {shown[1]}×{shown[0]}: they must be equally large'
        )
    return ids


def to_classes(
    path: str,
    ids: np.ndarray,
    classes: int | None,
    reduce_zero_label: bool,
    label_map: dict[int, int] | None = None,
) -> np.ndarray:
    """Ids as in the file → uint8 [H, W], 0 … classes − 1 or 255, as mmseg's LoadAnnotations makes them.

    Args:
        classes: how many there are; None leaves the upper end open.
        reduce_zero_label: 0 in the file is unlabelled and 1 the first class.
        label_map: from the ids of the whole data set to those of the classes that were chosen of it.

    Raises BadSample for an id that no class has.
    """
    table = np.arange(256)
    if reduce_zero_label:
        table = np.where((table == 0) | (table == IGNORE), IGNORE, table - 1)
    known = list(label_map) if label_map else range(IGNORE if classes is None else classes)
    valid = np.isin(table, [*known, IGNORE])
    small = ids.astype(np.uint8)
    if ids.dtype != np.uint8 and ids.dtype != bool and not 0 <= ids.min() <= ids.max() <= 255:
        bad = [int(ids.min() if ids.min() < 0 else ids.max())]
    else:
        counts = cv2.calcHist([small], [0], None, [256], [0, 256]).ravel()
        bad = np.flatnonzero((counts > 0) & ~valid).tolist()
    if bad:
        raise BadSample(
            f'{path} has the value {", ".join(map(str, bad[:5]))}: valid are {np.flatnonzero(valid[:IGNORE])[0]} … '
            f'{np.flatnonzero(valid[:IGNORE])[-1]} and {IGNORE}, which is not labelled'
            + (', nor is 0' if reduce_zero_label else '')
        )
    if label_map:
        table = np.array([label_map.get(old, old) % 256 for old in table.tolist()])
    return table.astype(np.uint8)[small]

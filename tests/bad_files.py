"""Files as they come: odd but valid ones, and broken ones. Each function writes one and returns nothing."""

import io
import struct
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 48, 64


def pixels(seed: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """A smooth picture, uint8 [H, W, 3], of which no turned copy is like it."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC))


@cache
def jpeg(mode: str = 'RGB', orientation: int = 1, size: tuple[int, int] = (HEIGHT, WIDTH)) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = dict(exif=exif) if orientation != 1 else {}
    return encoded(Image.fromarray(pixels(size=size)).convert(mode), 'JPEG', quality=95, **options)


def encoded(image: Image.Image, kind: str = 'PNG', **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def sixteen_bits(values: np.ndarray) -> bytes:
    return encoded(Image.fromarray(values.astype(np.uint16)))


def declared(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds no pixel."""
    png = bytearray(encoded(Image.new('L', (1, 1))))
    png[16:24] = struct.pack('>II', width, height)
    png[29:33] = struct.pack('>I', zlib.crc32(png[12:29]))
    return bytes(png)


@cache
def _large() -> bytes:
    """A valid file of 50 kB."""
    return encoded(Image.new('1', (20_000, 20_000)))


# name of the file, what it holds, what the error says of it, or None where it must be read
IMAGES = {
    'ordinary': ('a.jpg', lambda: jpeg(), None),
    'ordinary PNG': ('a.png', lambda: encoded(Image.fromarray(pixels())), None),
    'named in Unicode': ('图像 é ü🌳.jpg', lambda: jpeg(), None),
    'PNG named .jpg': ('a.jpg', lambda: encoded(Image.fromarray(pixels())), None),
    'gray': ('a.jpg', lambda: jpeg('L'), None),
    'CMYK': ('a.jpg', lambda: jpeg('CMYK'), None),
    'palette': ('a.png', lambda: encoded(Image.fromarray(pixels()).quantize(16)), None),
    'RGBA': (
        'a.png',
        lambda: encoded(Image.fromarray(np.dstack([pixels(), pixels(1)[..., 0]]))),
        None,
    ),
    'gray and alpha': ('a.png', lambda: encoded(Image.fromarray(pixels()).convert('LA')), None),
    '1 bit': ('a.png', lambda: encoded(Image.fromarray(pixels()).convert('1')), None),
    '16-bit': ('a.png', lambda: sixteen_bits(pixels()[..., 0].astype(int) * 257), None),
    '16-bit, values 0 … 3': (
        'a.png',
        lambda: sixteen_bits(pixels()[..., 0] // 64),
        '16 bits, none of them in the upper 8',
    ),
    **{f'EXIF {o}': ('a.jpg', lambda o=o: jpeg(orientation=o), None) for o in range(2, 9)},
    '1×1': ('a.png', lambda: encoded(Image.fromarray(pixels()[:1, :1])), None),
    'truncated JPEG': ('a.jpg', lambda: jpeg()[:-200], 'cannot be decoded .*truncated'),
    'truncated PNG': (
        'a.png',
        lambda: encoded(Image.fromarray(pixels()))[:-200],
        'cannot be decoded',
    ),
    'truncated header': ('a.jpg', lambda: jpeg()[:30], 'no image|cannot be decoded'),
    'empty': ('a.jpg', lambda: b'', 'is empty'),
    'text': (
        'a.jpg',
        lambda: b'<html>404 not found</html>',
        'is no image: it begins with .*<html>',
    ),
    '60 000×60 000 declared': (
        'a.png',
        lambda: declared(60_000, 60_000),
        '60000×60000, over the limit of',
    ),
    '20 000×20 000': ('a.png', _large, '20000×20000, over the limit of'),
    'strip': (
        'a.png',
        lambda: encoded(Image.new('RGB', (101, 1))),
        '101×1, one side more than 100 times the other',
    ),
    'JPEG of a strip': (
        'a.jpg',
        lambda: encoded(Image.new('RGB', (1, 101)), 'JPEG'),
        '1×101, one side more than',
    ),
    'broken link': ('a.jpg', lambda: None, 'a link to .*nowhere.*No such file'),
}
READABLE = [name for name, (_, _, error) in IMAGES.items() if error is None]


def ids(size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """A label map, uint8 [H, W]: 0 (not labelled) to 3."""
    return pixels(3, size)[..., 0] // 64


def grey(values: np.ndarray) -> bytes:
    return encoded(Image.fromarray(values.astype(np.uint8)))


# of three classes: what it holds, what the error says of it, or None where it must be read
MAPS = {
    'ordinary': (lambda: grey(ids()), None),
    'palette': (lambda: _with_palette(ids()), None),
    '16-bit ids': (lambda: sixteen_bits(ids()), None),
    'all 255': (lambda: grey(np.full((HEIGHT, WIDTH), 255)), None),
    'value 200': (
        lambda: grey(np.where(ids() == 3, 200, ids())),
        'has the value 200: valid are 0 … 3 and 255',
    ),
    'value 4 of 3 classes': (lambda: grey(ids() + 1), 'has the value 4'),
    '16-bit, value 300': (lambda: sixteen_bits(ids().astype(int) * 100), 'has the value 300'),
    'colour': (lambda: encoded(Image.fromarray(pixels())), r'is a picture \(mode RGB\)'),
    'smaller': (lambda: grey(ids((24, 32))), 'is 32×24, its image 64×48'),
    'larger': (lambda: grey(ids((96, 128))), 'is 128×96, its image 64×48'),
    'transposed': (lambda: grey(ids().T), 'is 48×64, its image 64×48'),
    'empty': (lambda: b'', 'is empty'),
    'truncated': (lambda: grey(ids())[:-40], 'cannot be decoded'),
    'broken link': (lambda: None, 'a link to .*nowhere.*No such file'),
}


def _with_palette(values: np.ndarray) -> bytes:
    image = Image.fromarray(values)
    image.putpalette(bytes(range(30)))
    return encoded(image)


def write(path: Path, content: bytes | None) -> Path:
    """The file; with None a link to nowhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        path.symlink_to('nowhere')
    else:
        path.write_bytes(content)
    return path

"""Odd but valid files and broken files. Each entry is (what it holds, what the error says or None)."""

import io
import struct
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

HEIGHT, WIDTH = 48, 64


def pixels(seed: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """Return a smooth picture, uint8 [H, W, 3], that differs from all its turned copies."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC))


def ids(size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """Return a label map, uint8 [H, W], with the values 0 … 3."""
    return pixels(3, size)[..., 0] // 64


def encoded(image: Image.Image, kind: str = 'PNG', **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@cache
def jpeg(mode: str = 'RGB', orientation: int = 1, size: tuple[int, int] = (HEIGHT, WIDTH)) -> bytes:
    options = dict(exif=exif(orientation)) if orientation != 1 else {}
    return encoded(Image.fromarray(pixels(size=size)).convert(mode), 'JPEG', quality=95, **options)


def float_tiff() -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels() / 255, photometric='rgb', planarconfig='contig')
    return file.getvalue()


def png(values: np.ndarray | None = None) -> bytes:
    return encoded(Image.fromarray(pixels() if values is None else values))


def grey(values: np.ndarray) -> bytes:
    return png(values.astype(np.uint8))


def sixteen_bits(values: np.ndarray) -> bytes:
    return png(values.astype(np.uint16))


def declared(width: int, height: int) -> bytes:
    """Return a PNG that declares a size and has no pixels."""
    content = bytearray(encoded(Image.new('L', (1, 1))))
    content[16:24] = struct.pack('>II', width, height)
    content[29:33] = struct.pack('>I', zlib.crc32(content[12:29]))
    return bytes(content)


def _with_palette(values: np.ndarray) -> bytes:
    image = Image.fromarray(values)
    image.putpalette(bytes(range(30)))
    return encoded(image)


IMAGES = {
    'ordinary': (jpeg, None),
    'PNG': (png, None),
    'gray': (lambda: jpeg('L'), None),
    'CMYK': (lambda: jpeg('CMYK'), None),
    'palette': (lambda: encoded(Image.fromarray(pixels()).quantize(16)), None),
    'RGBA': (lambda: png(np.dstack([pixels(), pixels(1)[..., 0]])), None),
    'gray and alpha': (lambda: encoded(Image.fromarray(pixels()).convert('LA')), None),
    '1 bit': (lambda: encoded(Image.fromarray(pixels()).convert('1')), None),
    '16-bit': (lambda: sixteen_bits(pixels()[..., 0].astype(int) * 257), None),
    '16-bit, values 0 … 3': (lambda: sixteen_bits(pixels()[..., 0] // 64), 'has 16 bits'),
    **{f'EXIF {o}': (lambda o=o: jpeg(orientation=o), None) for o in range(2, 9)},
    '1×1': (lambda: png(pixels()[:1, :1]), None),
    'truncated JPEG': (lambda: jpeg()[:-200], 'cannot be decoded .*truncated'),
    'truncated PNG': (lambda: png()[:-200], 'cannot be decoded'),
    'truncated header': (lambda: jpeg()[:30], 'not an image|cannot be decoded'),
    'empty': (lambda: b'', 'is empty'),
    'text': (lambda: b'<html>404 not found</html>', 'is not an image: it starts with .*<html>'),
    'TIFF of floats': (lambda: float_tiff(), 'is a TIFF file of a kind that Pillow cannot read'),
    '60 000×60 000 declared': (lambda: declared(60_000, 60_000), '60000×60000 .*at most'),
    '20 000×20 000': (cache(lambda: encoded(Image.new('1', (20_000, 20_000)))), '20000×20000 '),
    'strip': (lambda: encoded(Image.new('RGB', (101, 1))), '101×1 .*at most 100 times the shorter'),
    'JPEG of a strip': (lambda: encoded(Image.new('RGB', (1, 101)), 'JPEG'), '1×101 .*100 times'),
    'broken link': (lambda: None, 'link to .*nowhere'),
}  # fmt: skip
READABLE = [name for name, (_, error) in IMAGES.items() if error is None]

# Label maps of three classes.
MAPS = {
    'ordinary': (lambda: grey(ids()), None),
    'palette': (lambda: _with_palette(ids()), None),
    '16-bit ids': (lambda: sixteen_bits(ids()), None),
    'all 255': (lambda: grey(np.full((HEIGHT, WIDTH), 255)), None),
    'value 200': (lambda: grey(np.where(ids() == 3, 200, ids())), 'the value 200, expected 1 … 3'),
    'value 4 of 3 classes': (lambda: grey(ids() + 1), 'has the value 4'),
    '16-bit, value 300': (lambda: sixteen_bits(ids().astype(int) * 100), 'has the value 300'),
    'color': (png, r'has colors \(mode RGB\)'),
    'smaller': (lambda: grey(ids((24, 32))), 'has 32×24 pixels, expected 64×48'),
    'larger': (lambda: grey(ids((96, 128))), 'has 128×96 pixels, expected 64×48'),
    'transposed': (lambda: grey(ids().T), 'has 48×64 pixels, expected 64×48'),
    'empty': (lambda: b'', 'is empty'),
    'truncated': (lambda: grey(ids())[:-40], 'cannot be decoded'),
    'broken link': (lambda: None, 'link to .*nowhere'),
}


def write(path: Path, content: bytes | None) -> Path:
    """Write a file; with None a broken link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        path.symlink_to('nowhere')
    else:
        path.write_bytes(content)
    return path

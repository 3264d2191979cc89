"""Images are read as Pillow and EXIF show them, ordinary ones with mmcv's pixels, or named."""

import io

import bad_files
import mmcv
import numpy as np
import pytest
import tifffile
from bad_files import IMAGES, READABLE
from PIL import Image, ImageOps

from beit_mm.data import image_files
from beit_mm.data.image_files import BadSample, read_image

pytestmark = pytest.mark.any_stack


@pytest.fixture
def read(tmp_path):
    """Read an image from its bytes."""

    def read_bytes(content: bytes | None, *args, **kwargs) -> np.ndarray:
        path = bad_files.write(tmp_path / '图像 é ü🌳.jpg', content)  # whatever the format
        return read_image(str(path), *args, **kwargs)[0]

    return read_bytes


@pytest.mark.parametrize('name', READABLE)
def test_an_odd_image_is_what_pillow_and_its_exif_tag_show(name, read):
    content = IMAGES[name][0]()
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    if expected.mode == 'I;16':  # Pillow would clip it
        expected = Image.fromarray((np.asarray(expected) // 256).astype(np.uint8))
    image = read(content)
    assert image.dtype == np.uint8 and image.flags.c_contiguous
    np.testing.assert_array_equal(image, np.asarray(expected.convert('RGB'))[..., ::-1])


@pytest.mark.parametrize('quality', [30, 75, 95, 100])
@pytest.mark.parametrize('options', [{}, dict(progressive=True), dict(subsampling=0)])
@pytest.mark.parametrize('orientation', [1, 6])
def test_an_ordinary_jpeg_has_mmcvs_pixels(quality, options, orientation, read):
    image, exif = bad_files.pixels(size=(61, 83)), bad_files.exif(orientation)
    content = bad_files.encoded(
        Image.fromarray(image), 'JPEG', quality=quality, exif=exif, **options
    )
    np.testing.assert_array_equal(read(content), mmcv.imfrombytes(content))


def test_bytes_after_the_end_of_a_jpeg_are_ignored_and_missing_ones_are_an_error(read):
    content = bad_files.jpeg()
    expected = read(content)
    for tail in (b'\n', b'\0' * 50, b'\0' * 5000):
        np.testing.assert_array_equal(read(content + tail), expected)
    for kept in np.linspace(700, len(content) - 3, 25).astype(int):
        with pytest.raises(BadSample):
            read(content[:kept])


def test_the_pixel_limit_is_an_argument_and_pillows_own_is_restored(read, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
    content = bad_files.declared(20_000, 20_000)
    with pytest.raises(BadSample, match='at most 399999999 pixels'):
        read(content, max_pixels=399_999_999)
    with pytest.raises(BadSample, match='cannot be decoded'):  # it has no pixels
        read(content, max_pixels=400_000_000)
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_flipped_bytes_give_an_image_or_bad_sample(read):
    rng = np.random.default_rng(0)
    palette = bad_files.encoded(Image.fromarray(bad_files.pixels()).quantize(8))
    for content in (bad_files.jpeg(), palette, bad_files.jpeg('CMYK')):
        for _ in range(150):
            broken = bytearray(content)
            for place in rng.integers(0, len(content), 3):
                broken[place] = rng.integers(256)
            try:
                assert read(bytes(broken), max_pixels=10**6).shape[2] == 3
            except BadSample as error:
                assert '图像' in str(error)


# -- all bands of a file -------------------------------------------------------------------------------


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encode(array: np.ndarray, suffix: str) -> bytes:
    if suffix == '.npy':
        return npy(array)
    file = io.BytesIO()
    if suffix == '.tif':
        tifffile.imwrite(file, array, photometric='minisblack', planarconfig='contig')
    else:
        Image.fromarray(array.squeeze(-1) if array.shape[2] == 1 else array).save(file, suffix[1:])
    return file.getvalue()


@pytest.mark.parametrize(
    ('channels', 'suffix'),
    [(1, '.png'), (3, '.png'), (4, '.png'), (2, '.tif'), (13, '.tif'), (1, '.npy'), (13, '.npy')],
)
def test_the_bands_of_a_file_are_those_that_were_written(channels, suffix, read):
    array = noise(6, 7, channels)
    expected = array[..., ::-1] if channels == 3 else array[..., 0] if channels == 1 else array
    assert np.array_equal(read(encode(array, suffix), 'unchanged'), expected)


def test_pages_of_a_tiff_are_bands(read):
    pages = [noise(6, 7, seed=seed) for seed in range(5)]
    first, *others = map(Image.fromarray, pages)
    content = bad_files.encoded(first, 'TIFF', save_all=True, append_images=others)
    assert np.array_equal(read(content, 'unchanged'), np.stack(pages, -1))


def test_an_array_of_three_bands_is_rgb_and_a_palette_gives_colors(read):
    array = noise(6, 7, 3)
    for color_type in ('color', 'unchanged'):
        assert np.array_equal(read(npy(array), color_type), array[..., ::-1])
    picture = Image.new('P', (4, 3))
    picture.putpalette([10, 20, 30] * 256)
    assert read(bad_files.encoded(picture), 'unchanged').tolist() == [[[30, 20, 10]] * 4] * 3


def test_further_pages_of_a_tiff_file_are_named_once(tmp_path, capfd):
    image_files._warn_of_pages.cache_clear()
    pages = [Image.new('RGB', (4, 3), color) for color in ('red', 'blue')]
    for name in ('a.tiff', 'b.tiff'):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
        assert (read_image(str(tmp_path / name))[0] == (0, 0, 255)).all()
    assert ''.join(capfd.readouterr()).count('only the first is read') == 1

"""Images are read as Pillow and EXIF show them and ordinary ones with the host's bits; label maps as mmseg reads them."""

import io
import re

import bad_files
import cv2
import mmcv
import numpy as np
import pytest
from bad_files import IMAGES, MAPS, READABLE
from PIL import Image, ImageOps

from beit_mm.data import reading
from beit_mm.data.reading import (
    BadSample,
    decode_image,
    decode_labels,
    oriented,
    read_bytes,
    to_classes,
)

pytestmark = pytest.mark.any_stack


def as_pillow_shows(content: bytes) -> np.ndarray:
    """BGR; Pillow itself cuts 16-bit grays at 255, so these are scaled first."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    if image.mode == 'I;16':
        image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    return np.asarray(image.convert('RGB'))[..., ::-1]


@pytest.mark.parametrize('name', READABLE)
def test_an_odd_image_is_what_pillow_and_its_exif_tag_show(name):
    content = IMAGES[name][1]()
    image, orientation = decode_image('a', content)
    assert image.dtype == np.uint8 and image.flags.c_contiguous
    np.testing.assert_array_equal(image, as_pillow_shows(content))
    assert orientation == (int(name[-1]) if name.startswith('EXIF') else 1)


@pytest.mark.parametrize('quality', [30, 75, 95, 100])
@pytest.mark.parametrize('options', [{}, dict(progressive=True), dict(subsampling=0)])
def test_an_ordinary_jpeg_has_the_bits_that_the_host_gives(quality, options):
    for orientation in (1, 6):
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = bad_files.encoded(
            Image.fromarray(bad_files.pixels(size=(61, 83))),
            'JPEG',
            quality=quality,
            exif=exif,
            **options,
        )
        np.testing.assert_array_equal(decode_image('a', content)[0], mmcv.imfrombytes(content))


def test_only_a_whole_jpeg_without_tags_is_taken_for_plain():
    photo = Image.fromarray(bad_files.pixels())
    for options in (
        {},
        dict(progressive=True),
        dict(subsampling=0),
        dict(comment=b'by hand'),
        dict(restart_marker_rows=1),
    ):
        content = bad_files.encoded(photo, 'JPEG', **options)
        assert (
            reading._plain_jpeg(content)
            == reading._plain_jpeg(bad_files.jpeg('L'))
            == photo.width * photo.height
        )
        assert all(reading._plain_jpeg(content[:kept]) == 0 for kept in range(len(content) - 2))
    others = [
        IMAGES[name][1]()
        for name in IMAGES
        if name not in ('ordinary', 'named in Unicode', 'gray', 'JPEG of a strip')
    ]
    assert {reading._plain_jpeg(content or b'') for content in others} == {0}


def test_a_jpeg_with_bytes_after_its_end_is_read_and_one_cut_within_a_thumbnail_of_the_end_mark_is_not():
    content = bad_files.jpeg()
    expected = decode_image('a', content)[0]
    for tail in (b'\n', b'\0' * 50, b'\0' * 5000):
        np.testing.assert_array_equal(decode_image('a', content + tail)[0], expected)
    for kept in np.linspace(700, len(content) - 3, 25).astype(int):
        with pytest.raises(BadSample, match='^a '):
            decode_image('a', content[:kept])


@pytest.mark.parametrize('name', [name for name in IMAGES if name not in READABLE])
def test_a_bad_image_is_an_error_that_names_it_and_says_why(tmp_path, name):
    file, content, message = IMAGES[name]
    path = bad_files.write(tmp_path / file, content())
    with pytest.raises(BadSample, match=message) as caught:
        decode_image(str(path), read_bytes(str(path)))
    assert str(path) in str(caught.value)


def test_the_pixel_limit_is_ours_and_pillows_own_stays():
    before = Image.MAX_IMAGE_PIXELS
    content = bad_files.declared(20_000, 20_000)
    with pytest.raises(BadSample, match='limit of 399999999 pixels'):
        decode_image('a', content, max_pixels=399_999_999)
    with pytest.raises(
        BadSample, match='cannot be decoded'
    ):  # within the limit, and without a pixel
        decode_image('a', content, max_pixels=400_000_000)
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize('bits', [2, 4])
def test_pngs_of_few_bits_are_spread_over_eight(bits):
    values = (np.arange(64).reshape(8, 8) % 2**bits).astype(np.uint8)
    content = cv2.imencode('.png', values * (255 // (2**bits - 1)))[1].tobytes()
    palette = Image.fromarray(values)
    palette.putpalette([c for v in range(2**bits) for c in [v * (255 // (2**bits - 1))] * 3])
    few = bad_files.encoded(palette, bits=bits)
    np.testing.assert_array_equal(decode_image('a', few)[0], decode_image('b', content)[0])


# -- label maps --------------------------------------------------------------------------------------------------------

SHOWN = (bad_files.HEIGHT, bad_files.WIDTH)


@pytest.mark.parametrize('name', MAPS)
def test_a_label_map_is_read_as_mmseg_reads_it_or_named(tmp_path, name):
    loading = pytest.importorskip('mmseg.datasets.transforms.loading')
    make, message = MAPS[name]
    path = str(bad_files.write(tmp_path / 'map.png', make()))

    def read() -> np.ndarray:
        return to_classes(path, decode_labels(path, read_bytes(path), SHOWN), 3, True)

    if message:
        with pytest.raises(BadSample, match=message) as caught:
            read()
        assert path in str(caught.value)
        return
    host = dict(seg_map_path=path, seg_fields=[], reduce_zero_label=True)
    found = read()
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, loading.LoadAnnotations().transform(host)['gt_seg_map'])


@pytest.mark.parametrize('reduce', [True, False])
@pytest.mark.parametrize('label_map', [None, {0: 1, 1: 0, 2: 255}, {0: 255, 1: 255, 2: 0}])
def test_every_id_becomes_what_mmseg_makes_of_it(tmp_path, reduce, label_map):
    loading = pytest.importorskip('mmseg.datasets.transforms.loading')
    ids = np.array([[0, 1, 2, 255], [2, 1, 0, 3 if reduce else 2]], np.uint8)
    path = str(bad_files.write(tmp_path / 'map.png', bad_files.grey(ids)))
    host = dict(seg_map_path=path, seg_fields=[], reduce_zero_label=reduce, label_map=label_map)
    expected = loading.LoadAnnotations().transform(host)['gt_seg_map']
    np.testing.assert_array_equal(to_classes('a', ids, 3, reduce, label_map), expected)
    ids[0, 0] = first = 4 if reduce else 3
    with pytest.raises(BadSample, match=f'value {first}: valid are 0'):
        to_classes('a', ids, 3, reduce, label_map)


@pytest.mark.parametrize('orientation', range(2, 9))
def test_a_map_of_a_turned_photo_is_turned_with_it_kept_or_refused_never_mismatched(orientation):
    stored = bad_files.ids()
    shown = oriented(stored, orientation)
    if orientation >= 5:
        for given in (stored, shown):  # as it is stored, as it is shown
            found = decode_labels('a', bad_files.grey(given), shown.shape, orientation)
            np.testing.assert_array_equal(found, shown)
    else:
        with pytest.raises(
            BadSample, match=f'turned by the EXIF orientation {orientation}, .*cannot be told'
        ):
            decode_labels('a', bad_files.grey(shown), shown.shape, orientation)
    with pytest.raises(BadSample, match='cannot be told'):
        decode_labels('a', bad_files.grey(stored[:, :48]), (48, 48), orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation  # a map with a tag of its own says how it is shown
    tagged = bad_files.encoded(Image.fromarray(stored), exif=exif)
    np.testing.assert_array_equal(decode_labels('a', tagged, shown.shape, orientation), shown)
    with pytest.raises(BadSample, match='equally large|cannot be told'):
        decode_labels('a', bad_files.grey(stored[:40]), shown.shape, 6)


def test_orientations_are_those_of_pillow():
    image = bad_files.pixels()
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        turned = ImageOps.exif_transpose(
            Image.open(io.BytesIO(bad_files.encoded(Image.fromarray(image), exif=exif)))
        )
        np.testing.assert_array_equal(oriented(image, orientation), np.asarray(turned))


def test_no_flipped_byte_of_a_small_file_gives_another_error():
    rng = np.random.default_rng(0)
    whole = [
        bad_files.jpeg(),
        bad_files.encoded(Image.fromarray(bad_files.pixels()).quantize(8)),
        bad_files.jpeg('CMYK'),
    ]
    for content in whole:
        for _ in range(150):
            broken = bytearray(content)
            for place in rng.integers(0, len(content), 3):
                broken[place] = rng.integers(256)
            try:
                image = decode_image('name', bytes(broken), max_pixels=10**6)[0]
                assert image.ndim == 3 and image.shape[2] == 3
            except BadSample as error:
                assert re.match('name ', str(error))

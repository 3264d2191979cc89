"""Transforms and data sets refuse unusable inputs with an error that says what to do."""

import cv2
import numpy as np
import pytest
from bad_files import write
from data.test_image_files import noise, npy
from data.test_two_views import photo

from beit_mm.data.color_jitter import ColorJitter
from beit_mm.data.image_files import read_image
from beit_mm.data.image_list import ImageList
from beit_mm.data.two_views import PackViews, TwoViews

pytestmark = pytest.mark.any_stack


def png16(channels: int) -> bytes:
    return cv2.imencode('.png', np.full((4, 5, channels), 200, np.uint16))[1].tobytes()


def image(content: bytes, color_type: str = 'color'):
    return lambda path: read_image(str(write(path, content)), color_type)


def line(content: bytes):
    return lambda path: ImageList(str(write(path, content)))[0]


MANY_BITS = 'has 16 bits per channel, expected 8. Scale all files alike'
REFUSALS = [
    (lambda _: TwoViews()(dict(img=photo() / 255)), r'TwoViews got float64 of .*, expected uint8 \[H, W\]'),
    (lambda _: ColorJitter()(dict(img=photo()[..., :1])), 'expected an RGB image. Remove ColorJitter'),
    (lambda _: PackViews()(ColorJitter()(dict(img=photo()))), 'move ColorJitter before TwoViews'),
    (image(npy(noise(6, 7, 4))), r"the shape \(6, 7, 4\), expected \[H, W, 3\].*color_type='unchanged'"),
    (image(npy(noise(6, 7, 3).astype('f4'))), 'has values of float32, expected uint8. Scale all files alike'),
    (image(npy(noise(5, 6, 7, 3))), r'the shape \(5, 6, 7, 3\), expected \[H, W\] or \[H, W, bands\]'),
    (image(npy(np.array([None]))), 'cannot be decoded .*Object arrays cannot be loaded'),
    *[(image(png16(channels), 'unchanged'), MANY_BITS) for channels in (1, 3, 4)],
    (line(b''), 'file is empty: expected a list of images with one path per line'),
    (line(b'\n\n'), 'file has only blank lines: expected a list'),
    (line(b'a.jpg\n'), "the line 'a.jpg' has no label.* or set with_label=False"),
]  # fmt: skip


@pytest.mark.parametrize('call, message', REFUSALS)
def test_what_cannot_be_used_is_named(call, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        call(tmp_path / 'file')


def test_a_missing_list_is_named():
    with pytest.raises(FileNotFoundError, match='gone.txt was not found: expected a list'):
        ImageList('gone.txt')

"""The pieces of the report: each picture shows what it says, and text stays text."""

import base64
import re
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from beit_mm.viz import draw

pytestmark = pytest.mark.any_stack

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (12, 16, 3), dtype=np.uint8)


def svg(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(html[: html.index('</svg>') + 6])


def test_png_keeps_every_pixel():
    kind, _, data = draw.png(IMAGE).partition(',')
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)[
        ..., ::-1
    ]
    assert kind == 'data:image/png;base64' and np.array_equal(decoded, IMAGE)


def test_floats_become_the_nearest_bytes():
    assert np.array_equal(draw.to_uint8(IMAGE.transpose(2, 0, 1) / 255), IMAGE)
    assert draw.to_uint8(np.array([[[-0.1]], [[0.5]], [[1.2]]])).tolist() == [[[0, 128, 255]]]


def test_hidden_patches_are_grey_and_the_others_untouched():
    mask = RNG.random((3, 4)) < 0.5
    hidden = draw.hide(IMAGE, mask)
    each = mask.repeat(4, 0).repeat(4, 1)
    assert (hidden[each] == 128).all() and np.array_equal(hidden[~each], IMAGE[~each])


def test_the_edge_of_what_is_hidden_is_orange_and_nothing_else_changes():
    mask = np.zeros((3, 4), bool)
    mask[1, 1:3] = True  # rows 4 … 7, columns 4 … 11
    drawn = draw.outline_hidden(IMAGE, mask)
    changed = (drawn != IMAGE).any(-1)
    edge = np.zeros((12, 16), bool)
    edge[4:8, 4:12] = True
    edge[5:7, 5:11] = False
    assert np.array_equal(changed, edge) and (drawn[edge] == draw.MARKS[0]).all()


def test_errors_have_a_color_far_from_those_of_the_classes():
    assert draw.color_apart([(255, 160, 20), (250, 0, 250)]) not in (
        (255, 140, 0),
        (255, 0, 255),
        (255, 255, 0),
    )


def test_overlay_mixes_the_class_colour_and_leaves_the_unlabelled():
    labels = np.zeros((12, 16), np.uint8)
    labels[0, 0], labels[0, 1] = 1, 255
    drawn = draw.overlay(IMAGE, labels, [[0, 0, 0], [255, 0, 100]], share=1.0)
    assert drawn[0, 0].tolist() == [255, 0, 100] and not drawn[1:].any()
    assert np.array_equal(drawn[0, 1], IMAGE[0, 1])
    assert np.array_equal(draw.overlay(IMAGE, labels, [[9, 9, 9], [9, 9, 9]], share=0.0), IMAGE)


@pytest.mark.parametrize(
    'low, high', [(0, 750), (-0.157, -0.149), (2.3024, 2.3027), (1e-9, 3e-9), (0, 1)]
)
def test_ticks_are_round_within_and_few(low, high):
    found = draw.ticks(low, high)
    assert 2 <= len(found) <= 6 and low <= found[0] and found[-1] <= high * (1 + 1e-12)
    assert all(re.fullmatch(r'[125]', f'{found[1] - found[0]:e}'[0]) for _ in found)


def test_curves_span_the_chart_and_keep_their_order():
    lines = dict(a=[(0, 4.0), (50, 2.0), (100, 1.0)], b=[(0, 5.0), (100, 3.0)])
    root = svg(draw.line_chart(lines, {}, 'iterations'))
    paths = [p.get('d') for p in root.iter('path') if p.get('fill') == 'none']
    points = [
        [tuple(map(float, xy.split())) for xy in re.split('[ML]', path)[1:]] for path in paths
    ]
    assert [len(p) for p in points] == [3, 2]
    (a0, a1, a2), (b0, b1) = points
    assert b0[1] < a0[1] < b1[1] < a1[1] < a2[1]  # downwards is less
    assert a0[0] == b0[0] and a2[0] == b1[0] and a1[0] == pytest.approx((a0[0] + a2[0]) / 2)


def test_what_is_not_finite_is_left_out():
    chart = draw.line_chart(
        dict(a=[(0, float('nan')), (1, 2.0), (2, 3.0)], b=[(0, float('inf'))]), {}, 'x'
    )
    assert 'nan' not in chart and 'inf' not in chart and '>b<' not in chart
    assert draw.line_chart(dict(a=[(0, float('nan'))]), {}, 'x') == ''


def test_one_point_and_a_flat_line_are_drawn():
    for points in ([(0, 1.0)], [(0, 1.0), (9, 1.0)]):
        svg(draw.line_chart(dict(a=points), dict(level=1.0), 'x'))


def test_names_are_text():
    evil = '<script>"&'
    html = draw.line_chart({evil: [(0, 1.0), (1, 2.0)]}, {evil: 1.5}, evil)
    html += (
        draw.picture_table([evil], [[IMAGE]])
        + draw.text_table([evil], [[evil]])
        + draw.legend({evil: 'red'})
    )
    assert '<script' not in html and html.count('&lt;script&gt;') == 8

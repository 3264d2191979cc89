"""Charts are well-formed SVG, and their points lie where their values say."""

import math
import xml.etree.ElementTree as ElementTree

import pytest

from beit_mm.viz.chart import chart

pytestmark = pytest.mark.any_stack

SVG = '{http://www.w3.org/2000/svg}'


def dots(svg: str) -> list[tuple[float, float]]:
    return [
        (float(c.get('cx')), float(c.get('cy')))
        for c in ElementTree.fromstring(svg).iter(f'{SVG}circle')
    ]


def test_points_are_spaced_as_their_values_or_their_powers():
    line = [(0.0, 1.0, math.nan), (10.0, 2.0, math.nan), (20.0, 3.0, math.nan)]
    (x0, y0), (x1, y1), (x2, y2) = dots(chart({'a': line}, 'T', 'steps'))
    assert (
        x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
        and y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
        and y0 > y1
    )
    line = [(120.0, 1.0, 0.5), (1200.0, 2.0, 0.5), (12000.0, 3.0, 0.5)]
    svg = chart({'a': line}, 'T', 'labels', log=True)
    (x0, _), (x1, _), (x2, _) = dots(svg)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert all(f'>{n}<' in svg for n in (120, 1200, 12000))


def test_names_are_escaped_and_one_point_is_enough():
    svg = chart({'a < b & c': [(5.0, 1.0, math.nan)]}, 'x > y', 'steps', level=0.0)
    assert 'a < b & c' in [t.text for t in ElementTree.fromstring(svg).iter(f'{SVG}text')]
    assert all(math.isfinite(v) for point in dots(svg) for v in point)


def test_nothing_to_draw_is_said():
    with pytest.raises(ValueError, match='no point'):
        chart({'a': []}, 'T', 'steps')

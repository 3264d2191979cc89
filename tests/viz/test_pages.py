"""Charts show their points, and names from outside are text in every part of a page."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from beit_mm.viz.charts import line_chart
from beit_mm.viz.pages import make_environment

pytestmark = pytest.mark.any_stack

HOSTILE = '<script>"&$x$\u202e'
NAN, INF = float('nan'), float('inf')


def test_single_equal_and_non_finite_points_are_drawn_or_skipped():
    lines = dict(a=[(0, NAN), (1, 2.0), (2, 3.0)], b=[(0, INF)], c=[(0, 1.0), (9, 1.0)])
    (a, (c0, c1)) = (re.findall(r'[ML] (\S+) (\S+)', d) for d in paths(line_chart(lines, 'x')))
    assert len(a) == 2 and float(a[1][1]) < float(a[0][1]) < float(
        c0[1]
    )  # larger values are higher
    assert c0[1] == c1[1] and float(c0[0]) < float(a[0][0]) < float(a[1][0]) < float(c1[0])
    assert line_chart(dict(a=[(0, NAN)]), 'x') == ''
    svg = line_chart(dict(a=[(0, 1.0)]), 'x', dict(level=1.0))
    assert 'currentColor' in svg and not re.search(r'https?:|url\(|<g id', svg)  # many on a page


def paths(svg: str) -> list[str]:
    """Return the points of the lines of a chart that have no dashes."""
    found = ElementTree.fromstring(svg.replace('xlink:', '')).iter('path')
    return [path.get('d') for path in found if 'stroke-width: 2' in path.get('style', '')]


@pytest.mark.parametrize('width', [1200, 400])
def test_pages_fit_the_window_and_charts_their_labels(chromium, tmp_path, width):
    template = make_environment().from_string(
        "{% extends 'page.html' %}{% from 'parts.html' import charts, gallery, picture_table %}"
        '{% block body %}{{ charts(figures) }}{{ picture_table(names, [images, images]) }}'
        "{{ gallery(images, names, '15rem') }}{% endblock %}"
    )
    lines = [
        [(1, 1e-7), (5e5, 3e-7)],
        [(0, 123456.0), (1e6, 123457.0)],
        [(999, -2946.5), (1001, 1e9)],
        [(1, 0.5)],
    ]
    figures = [dict(title=80 * 'a', lines={80 * 'b': points}) for points in lines]
    images = 4 * [np.zeros((8, 8, 3), np.uint8)]
    page = tmp_path / 'page.html'
    page.write_text(template.render(title='page', figures=figures, names=4 * ['c'], images=images))
    chromium.open(page, width, 800, "document.readyState === 'complete' && document.title")
    assert chromium.value('document.documentElement.scrollWidth') <= width
    cut_off = chromium.value(
        """[...document.querySelectorAll('svg text')].filter(text => {
            const [inner, outer] = [text, text.closest('svg')].map(e => e.getBoundingClientRect());
            return inner.left < outer.left - 1 || inner.right > outer.right + 1
                || inner.top < outer.top - 1 || inner.bottom > outer.bottom + 1;
        }).map(text => text.textContent)"""
    )
    assert chromium.value("document.querySelectorAll('svg text').length") > 30
    assert cut_off == []


def test_names_are_text_in_every_part_of_a_page():
    template = make_environment().from_string(
        "{% from 'parts.html' import charts, gallery, legend, picture_table, text_table %}"
        '{{ charts([dict(title=name, lines={name: points}, levels=dict(level=1.5))]) }}'
        '{{ picture_table([name], [[image]]) }}{{ gallery([image], [name]) }}'
        "{{ text_table([name], [[name]]) }}{{ legend({name: 'red'}) }}"
    )
    html = template.render(
        name=HOSTILE, points=[(0, 1.0), (1, 2.0)], image=np.zeros((2, 2, 3), np.uint8)
    )
    assert '<script' not in html and '\u202e' not in html
    assert html.count('&lt;script&gt;') == 9 and html.count(r'\u202e') == 9
    assert html.count('$x$') == 9

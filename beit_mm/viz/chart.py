"""A chart as an SVG file of its own, for Markdown pages: lines with error bars, names and axes in it, readable on any ground."""

import math
from itertools import cycle

from .draw import COLOURS, text, ticks

_WIDTH, _HEIGHT = 520, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 508, 34, 284  # of the plane; the legend lies above its top

Series = dict[
    str, list[tuple[float, float, float]]
]  # name → (x, y, half the height of the error bar, NaN for none)


def chart(
    series: Series, title: str, x_label: str, log: bool = False, level: float | None = None
) -> str:
    """The SVG. `log`: x in powers, with the points' own x as ticks; `level`: a dashed line at that y.

    Raises ValueError when there is no point.
    """
    points = [point for line in series.values() for point in line]
    if not points:
        raise ValueError(f'the chart {title!r} has no point')
    xs = sorted({x for x, _, _ in points})
    reach = [y + s * e for _, y, e in points for s in (-1, 1) if not math.isnan(e)] + [
        y for _, y, _ in points
    ]
    if level is not None:
        reach.append(level)
    margin = 0.06 * (max(reach) - min(reach)) or 1.0
    low, high = min(reach) - margin, max(reach) + margin
    first, last = (math.log(xs[0]), math.log(xs[-1])) if log else (min(0, xs[0]), xs[-1])
    inset = 24 if log else 0

    def px(x: float) -> float:
        share = ((math.log(x) if log else x) - first) / (last - first or 1)
        return _LEFT + inset + (_RIGHT - _LEFT - 2 * inset) * share

    def py(y: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP - 16) * (y - low) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<title>{text(title)}</title><rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{_LEFT}" y="16" font-weight="bold">{text(title)}</text>',
    ]
    for y in ticks(low, high):
        parts.append(f'<path d="M{_LEFT} {py(y):.1f}H{_RIGHT}" stroke="#000" opacity=".15"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{py(y) + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x in xs if log else ticks(first, last):
        parts.append(f'<text x="{px(x):.1f}" y="{_BOTTOM + 16}" text-anchor="middle">{x:g}</text>')
    parts.append(
        f'<text x="{(_LEFT + _RIGHT) / 2}" y="{_BOTTOM + 36}" text-anchor="middle">{text(x_label)}</text>'
    )
    if level is not None:
        parts.append(
            f'<path d="M{_LEFT} {py(level):.1f}H{_RIGHT}" stroke="#000" stroke-dasharray="5 4"/>'
        )
    x = _LEFT
    for (name, line), colour in zip(series.items(), cycle(COLOURS)):
        path = 'L'.join(f'{px(at):.1f} {py(y):.1f}' for at, y, _ in line)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for at, y, error in line:
            parts.append(f'<circle cx="{px(at):.1f}" cy="{py(y):.1f}" r="2.5" fill="{colour}"/>')
            if not math.isnan(error):
                bar = f'M{px(at):.1f} {py(y - error):.1f}V{py(y + error):.1f}'
                parts.append(f'<path d="{bar}" stroke="{colour}" stroke-width="1" opacity=".7"/>')
        parts.append(f'<text x="{x}" y="32" fill="{colour}">{text(name)}</text>')
        x += 7 * len(name) + 16
    return ''.join(parts) + '</svg>\n'

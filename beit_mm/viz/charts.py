"""Line charts for pages, as SVG."""

import io
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

# Readable on white and on black, and distinguishable with red-green color blindness.
COLORS = ('#0b84c6', '#e07b00', '#1a9a6c', '#c9529d', '#8c7ae6', '#a08a00')
STYLE = Path(__file__).parent / 'templates/charts.mplstyle'
INK = '#010203'  # in the style, stands for the text color of the page
_NO_METADATA = dict.fromkeys(('Date', 'Creator', 'Format', 'Type'))


def line_colors(names: Iterable[str]) -> dict[str, str]:
    """Return a CSS color for each line of a chart."""
    names = list(names)
    if len(names) <= len(COLORS):
        return dict(zip(names, COLORS, strict=False))
    spread = colormaps['rainbow'](np.linspace(0, 1, len(names)))
    return dict(zip(names, map(to_hex, spread), strict=True))


def line_chart(
    lines: dict[str, list[tuple[float, float]]],
    x_label: str,
    levels: dict[str, float] | None = None,
) -> str:
    """Return an SVG element without a legend: name → points (x, y), in the page's text color.

    `levels` are dashed horizontal lines with names. Points that are not finite are skipped;
    returns '' if none is left.
    """
    finite = {name: [p for p in points if np.isfinite(p[1])] for name, points in lines.items()}
    if not any(finite.values()):
        return ''
    file = io.StringIO()
    colors = line_colors(lines)
    with rc_context({'svg.hashsalt': repr(lines)}, fname=STYLE):
        figure = Figure((4.8, 2.7))
        axes = figure.add_subplot()
        for name, points in finite.items():
            if points:
                marker = 'o' if len(points) == 1 else None
                axes.plot(*zip(*points, strict=True), color=colors[name], marker=marker)
        axes.set_xlim(left=min(0, axes.get_xlim()[0]))
        axes.set_xlabel(x_label)
        axes.locator_params(nbins=5)
        axes.ticklabel_format(useOffset=False)
        for name, y in (levels or {}).items():
            axes.axhline(y, color=INK, linewidth=1, linestyle='--')
            axes.text(1, y, name, transform=axes.get_yaxis_transform(), ha='right', va='bottom')
        for artist in figure.findobj():
            artist.set_clip_on(False)  # a clip path is found by its id, and pages have many charts
        figure.savefig(file, format='svg', metadata=_NO_METADATA)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"|(?<=<g) id="[^"]*"', '', file.getvalue())
    return svg[svg.index('<svg') :].replace(INK, 'currentColor')

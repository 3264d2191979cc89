"""Self-contained web pages from Jinja2 templates, readable on a phone, light or dark."""

import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from . import charts, images

TEMPLATES = Path(__file__).parent / 'templates'

# Control characters except tab and line ends, marks that change the direction of text, and lone
# surrogates, which the names of damaged files contain.
_INVISIBLE = re.compile(
    r'[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e'
    r'\u2066-\u2069\ufeff\ud800-\udfff]'
)


def show_invisible(value: object) -> object:
    """Replace invisible characters in a string by their numbers; return other values unchanged."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return _INVISIBLE.sub(lambda found: f'\\u{ord(found[0]):04x}', value)


def make_environment(*folders: Path) -> Environment:
    """Return an environment for the templates of this package and of other folders.

    All values are escaped: a name from outside, such as one of a file, stays text.
    """
    environment = Environment(
        loader=FileSystemLoader([TEMPLATES, *folders]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=show_invisible,
    )
    environment.filters['png'] = images.to_data_uri
    environment.globals.update(line_chart=charts.line_chart, line_colors=charts.line_colors)
    return environment


def write_page(path: Path, template: str, *folders: Path, **values: object) -> None:
    """Render a template into a file and create its folder."""
    text = make_environment(*folders).get_template(template).render(values)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding='utf-8')

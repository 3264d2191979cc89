"""One web page that needs nothing beside itself, readable on a phone, light or dark: what every page here looks like."""

from pathlib import Path

from .draw import text

_STYLE = """
:root { color-scheme: light dark; --edge: #8884; --soft: #8881 }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 0 auto; padding: 1rem; overflow-wrap: break-word }
h1 { line-height: 1.2 } h2 { margin-top: 2.5rem } h3, figure { margin: 0 } .wide + h3 { margin-top: 1rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } .wide { overflow-x: auto }
th, td { text-align: left; vertical-align: top; border-bottom: 1px solid var(--edge) }
th, td { padding: .3rem clamp(.4rem, 2vw, 1rem) .3rem 0 }
.pictures { width: 100%; table-layout: fixed; min-width: 18rem }
.pictures th, .pictures td { padding: 2px; border: 0; text-align: center; vertical-align: bottom }
.pictures th { font-size: .85rem; font-weight: 400; line-height: 1.2 }
img { width: 100%; display: block; image-rendering: pixelated; border-radius: 3px }
svg { width: 100%; max-width: 36rem; height: auto }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(5rem, 1fr)); gap: .6rem }
figcaption { font-size: .85rem; line-height: 1.3; overflow-wrap: anywhere }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .85rem; margin: .3rem 0 }
.legend i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1.5rem }
details { margin-top: 1rem }
code { font-size: .85em; overflow-wrap: anywhere }
pre { font-size: .8rem; background: var(--soft); padding: .6rem; border-radius: 4px; overflow-x: auto }
.note { background: var(--soft); border-left: 4px solid #0b84c6; padding: .6rem 1rem; border-radius: 4px }
"""


def write(path: Path, title: str, sections: list[str], style: str = '', script: str = '') -> None:
    """Write sections of HTML as a page; `title` is text, `style` and `script` come on top. The folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    head += '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f'<title>{text(title)}</title><style>{_STYLE}{style}</style></head><body>'
    tail = (f'<script>{script}</script>' if script else '') + '</body></html>\n'
    path.write_text(head + '\n'.join(sections) + tail, encoding='utf-8')

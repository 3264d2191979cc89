"""What `tools/recipe.py check` prints."""

import textwrap
from itertools import zip_longest

from .comparison import Finding, show
from .paper import Row, agrees
from .summary import Facts

WIDTHS = 26, 24, 24, 46  # what, paper, yours, effect
VARIANTS = dict(vanilla='plain ViT, absolute positions', mixed='neither plain ViT nor BEiT+')
VARIANTS['LayerScale'] = 'plain ViT with LayerScale (table 5)'
VARIANTS['BEiT+'] = 'BEiT+, relative positions and LayerScale'
_MEANING = dict(
    arch='size',
    px='pixels a side',
    data='data set',
    variant='architecture',
    frozen='frozen backbone',
)


def text(facts: Facts, row: Row, misses: list[str], findings: list[Finding]) -> str:
    """Which recipe the config is, the findings in columns, and how many there are."""
    wrong = sum(finding.contradiction for finding in findings)
    equal = sum(agrees(facts, row, fact) for fact in row.values)
    table = _table(findings) if findings else []
    summary = f'{_count(wrong, "contradiction")} (✗), {_count(len(findings) - wrong, "difference")}'
    return '\n'.join(
        [
            *_head(facts, row, misses),
            '',
            *table,
            *([''] if table else []),
            f'{summary}; {equal} values agree.',
        ]
    )


def _count(number: int, noun: str) -> str:
    return f'{number} {noun}{"" if number == 1 else "s"}'


def _head(facts: Facts, row: Row, misses: list[str]) -> list[str]:
    lines = [f'recipe: {row.title}']
    if misses:
        own = ', '.join(
            f'{_MEANING.get(fact, fact)} {show(getattr(facts, fact))}' for fact in misses
        )
        lines = [
            f"none of the paper's recipes ({own}); compared with the nearest:",
            f'  {row.title}',
        ]
    if silent := [fact for fact in row.identity if getattr(facts, fact) is None]:
        lines.append(
            f'taken for it, since the config does not show: {", ".join(_MEANING.get(f, f) for f in silent)}'
        )
    if facts.variant:
        lines.append(f'architecture: {VARIANTS[facts.variant]}')
    return [*lines, f'images an update: {facts.batch} ({facts.factors})']


def _table(findings: list[Finding]) -> list[str]:
    lines = [*_line('', ('what', 'paper', 'yours', 'effect')), '─' * (sum(WIDTHS) + 8)]
    for f in findings:
        lines += _line('✗' if f.contradiction else '', (f.what, f.paper, f.yours, f.effect))
    return lines


def _line(mark: str, cells: tuple[str, ...]) -> list[str]:
    columns = [textwrap.wrap(cell, width) for cell, width in zip(cells, WIDTHS, strict=True)]
    rows = zip_longest([mark], *columns, fillvalue='')
    widths = (1, *WIDTHS)
    return [
        ' '.join(cell.ljust(width + 1) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]

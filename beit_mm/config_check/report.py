"""Findings as text: the list before training, and the table of the comparison with the paper."""

import textwrap
from itertools import zip_longest
from pathlib import Path

from mmengine.config import Config

from .finding import Finding, show_value
from .paper import PaperRecipe, agrees
from .summary import ConfigSummary

WIDTHS = 1, 26, 24, 24, 46  # columns of the table: mark, what, paper, yours, effect


def format_list(cfg: Config, findings: list[Finding]) -> str:
    """Return the findings of `preflight`, one per line; ✗ marks those that stop."""
    name = Path(cfg.filename).name if cfg.filename else 'this config'
    errors = sum(finding.stops for finding in findings)
    lines = [f'{name}: {_count(errors, "error")} (✗), {_count(len(findings) - errors, "remark")}']
    lines += [f'  {"✗" if finding.stops else "!"} {finding}' for finding in findings]
    return '\n'.join(lines)


def format_comparison(
    summary: ConfigSummary, recipe: PaperRecipe, mismatches: list[str], findings: list[Finding]
) -> str:
    """Return which recipe the config follows, the findings of `compare` as a table, and a count."""
    lines = [f'recipe: {recipe.title}']
    if mismatches:
        own = [f'{name}={show_value(summary[name])}' for name in mismatches]
        lines = [
            f"none of the paper's recipes ({', '.join(own)}); compared with the nearest:",
            f'  {recipe.title}',
        ]
    if unknown := [name for name in recipe.identity if summary[name] is None]:
        lines.append(f'assumed, since the config does not show it: {", ".join(unknown)}')
    if summary['variant']:
        scale = show_value(summary['layer_scale'])
        lines.append(f'architecture: positions {summary["positions"]}, LayerScale {scale}')
    lines += [f'images per update: {summary.batch} ({summary.factors})', '']
    if findings:
        lines += [*_row('', 'what', 'paper', 'yours', 'effect'), '─' * (sum(WIDTHS) + 8)]
        for each in findings:
            mark = '✗' if each.stops else ''
            lines += _row(mark, each.what, each.expected, each.yours, each.effect)
        lines.append('')
    errors = sum(each.stops for each in findings)
    equal = sum(agrees(summary, recipe, name) for name in recipe.values)
    differences = _count(len(findings) - errors, 'difference')
    lines.append(f'{_count(errors, "contradiction")} (✗), {differences}; {equal} values agree.')
    return '\n'.join(lines)


def _count(number: int, noun: str) -> str:
    return f'{number} {noun}{"" if number == 1 else "s"}'


def _row(*cells: str) -> list[str]:
    """Return the lines of one row of the table, with its cells wrapped."""
    columns = [textwrap.wrap(cell, width) for cell, width in zip(cells, WIDTHS, strict=True)]
    lines = []
    for parts in zip_longest(*columns, fillvalue=''):
        padded = [part.ljust(width + 2) for part, width in zip(parts, WIDTHS, strict=True)]
        lines.append(''.join(padded).rstrip())
    return lines

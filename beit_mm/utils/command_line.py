"""Parsers of the tools, whose help shows how this installation calls them."""

import re
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

from .installation import command


class ToolParser(ArgumentParser):
    """Parser whose help has the commands of this installation, also in its subparsers."""

    def format_help(self) -> str:
        return adapt_commands(super().format_help())


def make_parser(description: str | None) -> ToolParser:
    """Return a parser whose help shows a docstring as it is, except for the commands in it."""
    return ToolParser(
        command(Path(sys.argv[0]).stem),
        description=description,
        formatter_class=RawDescriptionHelpFormatter,
    )


def adapt_commands(text: str) -> str:
    """Replace `python tools/X.py` by the command of this installation; see `command`."""
    if command('x').startswith('python'):
        return text
    text = re.sub(r'(torchrun .+?) tools/', r'\1 --no-python tools/', text)
    return re.sub(r'(?:(?<!-)python )?\btools/(\w+)\.py', lambda tool: command(tool[1]), text)

"""Parsers and errors that the commands in tools/ share."""

import sys
from argparse import ArgumentTypeError
from collections.abc import Iterator
from contextlib import contextmanager

from beit_mm.utils.command_line import make_parser

__all__ = ['errors_on_one_line', 'make_parser', 'positive']


def positive(text: str) -> int:
    """Read a number of at least 1 from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f'{text}: expected at least 1')
    return int(text)


@contextmanager
def errors_on_one_line(*more: type[Exception]) -> Iterator[None]:
    """End the program with the message of an error that a user can fix; also a decorator."""
    try:
        yield
    except (ImportError, OSError, ValueError, *more) as error:
        sys.exit(f'error: {" ".join(str(error).split())}')

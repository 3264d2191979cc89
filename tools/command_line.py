"""Parsers and errors that the commands in tools/ share."""

import sys
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Iterator
from contextlib import contextmanager


def make_parser(description: str | None) -> ArgumentParser:
    """Return a parser whose help shows a docstring as it is."""
    return ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)


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

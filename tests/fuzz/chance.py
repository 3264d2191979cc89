"""What all properties here share: settings that are mostly good, refusals that name what is wrong, and a count of cases.

Examples are drawn from a fixed seed; BEIT_MM_FUZZ_TIMES=20 draws twenty times as many. `tools/stress.py fuzz` draws from
others: it says how many cases (BEIT_MM_FUZZ_CASES) and where each is noted (BEIT_MM_FUZZ_NOTES).
"""

import functools
import math
import os
import traceback
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException

CASES, NOTES = int(os.environ.get('BEIT_MM_FUZZ_CASES', 0)), os.environ.get('BEIT_MM_FUZZ_NOTES')
TIMES = int(os.environ.get('BEIT_MM_FUZZ_TIMES', 1))
settings.register_profile(
    'fixed',
    derandomize=not NOTES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile('fixed')

DOCUMENTED = ValueError, TypeError, FileNotFoundError
small, any_int = st.integers(0, 6), st.integers(-3, 40)
wrong = st.sampled_from([None, 'other', -1, 0, 1.5, math.nan, math.inf, (), [1, 2, 3], {}])


class Executed(AssertionError):
    """Code of a file has run."""


def mostly(good: st.SearchStrategy, bad: st.SearchStrategy = wrong) -> st.SearchStrategy:
    return st.integers(0, 15).flatmap(
        lambda place: bad if place == 11 else good
    )  # one_of would be half and half


def refused(error: Exception, **given: object) -> str:
    """Of an error that names one of the settings with its value; an AssertionError for any other."""
    words = str(error)
    named = [
        name
        for name, value in given.items()
        if name in words and (str(value) in words or repr(value) in words)
    ]
    assert isinstance(error, DOCUMENTED) and named, (
        f'{type(error).__name__}: {words}\ngiven: {given}'
    )
    return 'refused'


def examples(number: int) -> Callable:
    """A property is tried so many times. It gives None where the result was right, or a word for what it was."""

    def decorate(test: Callable) -> Callable:
        test.hypothesis.inner_test = _noted(test.hypothesis.inner_test)
        test = settings(max_examples=CASES or number * TIMES)(test)
        test.examples = number
        return test

    return decorate


def _noted(test: Callable) -> Callable:
    @functools.wraps(test)
    def once(*args: object, **drawn: object) -> None:
        try:
            word = test(*args, **drawn) or 'right'
        except HypothesisException:  # no case: it is drawn again
            raise
        except Exception as error:
            if not NOTES:
                raise
            word = 'executed' if isinstance(error, Executed) else 'wrong'
            print(f'{word}: {test.__name__} of {drawn}\n{traceback.format_exc()}', flush=True)
        if NOTES:
            with Path(NOTES).open('a') as notes:
                notes.write(f'{word}\n')

    return once

"""Strategies for settings that are mostly good, checks of refusals, and the number of cases.

Examples are drawn from a fixed seed; BEIT_MM_FUZZ_TIMES=20 draws twenty times as many.
`tools/stress.py fuzz` draws from other seeds and sets BEIT_MM_FUZZ_CASES, the number of cases, and
BEIT_MM_FUZZ_NOTES, the file with the result of each case.
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
FIXED = dict(derandomize=not NOTES, deadline=None, database=None)
settings.register_profile('fixed', suppress_health_check=list(HealthCheck), **FIXED)
settings.load_profile('fixed')

DOCUMENTED = ValueError, TypeError, FileNotFoundError
small, any_int = st.integers(0, 6), st.integers(-3, 40)
wrong = st.sampled_from([None, 'other', -1, 0, 1.5, math.nan, math.inf, (), [1, 2, 3], {}])


class Executed(AssertionError):
    """Raised when code of a file has run."""


def mostly(good: st.SearchStrategy, bad: st.SearchStrategy = wrong) -> st.SearchStrategy:
    """Draw a bad value once in 16 times; `one_of` would draw half of each."""
    return st.integers(0, 15).flatmap(lambda place: bad if place == 11 else good)


def refused(error: Exception, **given: object) -> str:
    """Return 'refused' if the error names a setting and its value; otherwise fail."""
    text = str(error)
    pairs = [(name, value) for name, value in given.items() if name in text]
    is_named = any(str(value) in text or repr(value) in text for _, value in pairs)
    assert isinstance(error, DOCUMENTED) and is_named, f'{error!r}\ngiven: {given}'
    return 'refused'


def examples(number: int) -> Callable:
    """Run a property on `number` cases. It returns None for a right result, or a word for another."""

    def decorate(test: Callable) -> Callable:
        test.hypothesis.inner_test = _noted(test.hypothesis.inner_test)
        test = settings(max_examples=CASES or number * TIMES)(test)
        test.examples = number
        return test

    return decorate


def _noted(test: Callable) -> Callable:
    @functools.wraps(test)
    def run_once(*args: object, **drawn: object) -> None:
        try:
            word = test(*args, **drawn) or 'right'
        except HypothesisException:  # not a case: it is drawn again
            raise
        except Exception as error:
            if not NOTES:
                raise
            word = 'executed' if isinstance(error, Executed) else 'wrong'
            print(f'{word}: {test.__name__} of {drawn}\n{traceback.format_exc()}', flush=True)
        if NOTES:
            with Path(NOTES).open('a') as notes:
                notes.write(f'{word}\n')

    return run_once

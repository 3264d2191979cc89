"""What the long form counts: a case that is wrong, one that ends the process, one that never ends, with the cases lost so."""

from collections import Counter
from pathlib import Path

import pytest
from trials import fuzz

PROPERTY = """
import os, time
from fuzz.chance import examples
from hypothesis import given, strategies as st

@examples(20)
@given(st.integers(0, 10**9))
def test_of_a_number(number):
    {body}
"""
ENDS = dict(
    right=('pass', dict(right=20)),
    wrong=('assert number < 0', dict(wrong=20)),
    crashed=('os.abort()', dict(crashed=1, lost=20)),
    hung=('time.sleep(1000)', dict(hung=1, lost=20)),
)


@pytest.mark.long
@pytest.mark.parametrize('end', ENDS)
def test_each_end_of_a_case_is_counted(end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    body, expected = ENDS[end]
    (tmp_path / 'test_property.py').write_text(PROPERTY.format(body=body))
    notes, count = tmp_path / 'notes', Counter()
    notes.write_text('')
    if end == 'hung':
        monkeypatch.setattr(fuzz, 'HANGS', 30)  # longer than a process needs to start
    tried = fuzz._run(
        f'{tmp_path}/test_property.py::test_of_a_number', 20, 0, notes, tmp_path / 'log', count
    )
    assert (tried, dict(+count)) == (20, expected)

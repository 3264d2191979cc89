"""A browser for the tests of pages."""

import pytest
from browser import browser


@pytest.fixture(scope='module')
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp('profile')) as shown:
        yield shown

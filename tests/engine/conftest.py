import pytest


@pytest.fixture(autouse=True)
def without_layout(unformatted):
    """Runners, and their forks, without laying out their configs."""

"""``kit``: tests/support/heads.py under one name."""

import pytest

from tests.support import heads


@pytest.fixture(scope="session")
def kit():
    return heads

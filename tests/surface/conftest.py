"""The application of these tests, on a database of each test's own."""

from __future__ import annotations

import pytest
from tests.surface.app import App


@pytest.fixture
def app(address: str) -> App:
    return App(address)

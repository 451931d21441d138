"""Fixtures for tests on a real PostgreSQL: one server, a database for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.postgres import Server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A server, started with the first test that needs it, for all of them."""
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def postgres_url(postgres_server: Server) -> Iterator[str]:
    """The address of an empty database of the test's own."""
    url = postgres_server.create_database()
    yield url
    postgres_server.give_back(url)

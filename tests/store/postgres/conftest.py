"""A store on a database of each test's own, with a table of the user's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.store.postgres.databases import STILL, execute

from perdure.store.postgres.store import PostgresStore


@pytest.fixture
def store(postgres_url: str) -> Iterator[PostgresStore]:
    store = PostgresStore(postgres_url + STILL)
    store.open(max_parallelism=7)
    execute(postgres_url, "CREATE TABLE notes (x int)")
    yield store
    store.close()

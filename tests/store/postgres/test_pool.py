"""The connections that read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from tests.store.postgres.databases import execute

from perdure.errors import NotOpen, StoreBusy, StoreReadOnly
from perdure.store.postgres.errors import translate
from perdure.store.postgres.pool import ReaderPool


class Counting:
    """Connects, and keeps what it has made."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.made: list[psycopg.Connection[Any]] = []

    def __call__(self) -> psycopg.Connection[Any]:
        self.made.append(psycopg.connect(self.url, autocommit=True))
        return self.made[-1]


@pytest.fixture
def connect(postgres_url: str) -> Counting:
    return Counting(postgres_url)


@pytest.fixture
def pool(connect: Counting) -> Iterator[ReaderPool]:
    pool = ReaderPool(connect, lambda error: translate(error, "x"), "x", prepares=True)
    yield pool
    pool.close()


def test_a_connection_is_used_again(pool: ReaderPool, connect: Counting) -> None:
    """One is enough for reads one after the other."""
    for number in range(5):
        assert pool.execute("SELECT $1::int", (number,)).fetchall() == [(number,)]
    assert len(connect.made) == 1


def test_one_that_is_lost_is_replaced(
    pool: ReaderPool, connect: Counting, postgres_url: str
) -> None:
    """The read that met it is done on a new one."""
    pool.execute("SELECT 1")
    execute(postgres_url, f"SELECT pg_terminate_backend({connect.made[0].info.backend_pid})")
    assert pool.execute("SELECT 2").fetchone() == (2,)
    assert len(connect.made) == 2


def test_several_reads_are_of_one_moment(pool: ReaderPool) -> None:
    """They are in one transaction, which only reads."""
    one, two = pool.at_once([("SELECT txid_current_snapshot()::text", ())] * 2)
    assert one.fetchall() == two.fetchall()
    with pytest.raises(StoreReadOnly):
        pool.at_once([("CREATE TABLE x ()", ())])


def test_errors_are_translated(pool: ReaderPool, postgres_url: str) -> None:
    """Trouble of the database's is a store error, a fault in the SQL is not."""
    execute(postgres_url, "CREATE TABLE x AS SELECT 1")
    with psycopg.connect(postgres_url) as other:
        other.execute("SELECT 1 FROM x FOR UPDATE")
        with pytest.raises(StoreBusy):
            pool.execute("SELECT 1 FROM x FOR UPDATE NOWAIT")
    with pytest.raises(psycopg.errors.SyntaxError):
        pool.execute("SELEC")


def test_closed_is_closed(pool: ReaderPool, connect: Counting) -> None:
    """No connection stays, and no read is begun."""
    pool.execute("SELECT 1")
    pool.close()
    assert all(connection.closed for connection in connect.made)
    with pytest.raises(NotOpen, match="closed meanwhile"):
        pool.execute("SELECT 1")

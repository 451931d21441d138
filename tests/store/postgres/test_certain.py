"""Commits whose answer is lost: what became of them is asked of the server."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import psycopg
import pytest
from tests.store.postgres.databases import STILL, end_connections, execute, soon

from perdure import MutationContext, WorkflowManager
from perdure.errors import StoreError
from perdure.store.postgres.connection import Connection
from perdure.store.postgres.pipeline import Pipeline, Rows
from perdure.store.postgres.store import _MARK as MARK
from perdure.store.postgres.store import PostgresStore


class LosingStore(PostgresStore):
    """One whose connection is cut once, before or after the server has committed."""

    url = ""
    loses: str | None = None

    def _connect(self) -> Connection:
        session = super()._connect()
        session.statements = _Losing(session, prepares=self._prepares)
        session.statements.store = self
        return session


class _Losing(Pipeline):
    store: LosingStore

    def run(self, *, last_may_fail: bool = False) -> list[Rows]:
        """See `Pipeline.run`."""
        store = self.store
        cuts = store.loses if any(sql == "COMMIT" for sql, _, _ in self._queue) else None
        if cuts is not None:
            store.loses = None
        if cuts == "before":
            end_connections(store.url)
        found = super().run(last_may_fail=last_may_fail)
        if cuts == "after":
            end_connections(store.url)
            super().ask(
                "SELECT 1"
            )  # finds that the connection is gone, as the answer does not come
        return found


@pytest.fixture
def store(postgres_url: str) -> Any:
    execute(postgres_url, "CREATE TABLE notes (text text)")
    made = LosingStore(postgres_url + STILL, pause=lambda seconds: None)
    made.url = postgres_url
    made.open(max_parallelism=None)
    yield made
    made.close()


def note(store: LosingStore, text: str, *, is_certain: bool) -> None:
    with store.transaction() as tx:
        if is_certain:
            tx.be_certain()
        sql = "INSERT INTO notes VALUES (%s)"
        tx.run_user_code(lambda: tx.db.execute(sql, (text,)), read_only=False)


def test_a_commit_that_is_stored_is_no_error(store: LosingStore, postgres_url: str) -> None:
    """Whoever ran it need not run it again, and the store is of use at once."""
    store.loses = "after"
    note(store, "once", is_certain=True)
    assert store.loses is None
    note(store, "next", is_certain=False)
    assert execute(postgres_url, "SELECT text FROM notes") == [("once",), ("next",)]


def test_a_commit_that_is_not_stored_is_one(store: LosingStore, postgres_url: str) -> None:
    """Then it can be run again without doubt."""
    store.loses = "before"
    with pytest.raises(StoreError):
        note(store, "lost", is_certain=True)
    assert not store._is_in_doubt
    note(store, "again", is_certain=True)
    assert execute(postgres_url, "SELECT text FROM notes") == [("again",)]


def test_who_did_not_ask_is_left_in_doubt(store: LosingStore, postgres_url: str) -> None:
    """What leaves its trace in the engine's rows finds it there, and costs no question."""
    store.loses = "after"
    with pytest.raises(StoreError):
        note(store, "stored", is_certain=False)
    assert execute(postgres_url, "SELECT text FROM notes") == [("stored",)]


def test_an_id_of_another_server_is_not_found(store: LosingStore, postgres_url: str) -> None:
    """A standby that has taken over may have given it to another transaction."""
    ((xid, since),) = execute(postgres_url, MARK)
    assert store.has_committed((xid, since))
    assert not store.has_committed((xid, "1.5"))
    assert not store.has_committed(None)


def test_an_id_that_a_crash_gives_again_is_not_found(store: LosingStore, postgres_url: str) -> None:
    """A process of the server's is killed: what had not reached the disk is gone, and with it the
    fact that the id was given. The server itself has not ended."""
    execute(postgres_url, "CHECKPOINT")  # or the table would be gone as well
    insert = "INSERT INTO notes VALUES ('…') RETURNING xmin::text::bigint"
    lost, other = psycopg.connect(postgres_url), psycopg.connect(postgres_url)
    mark = lost.execute(MARK).fetchone()
    assert mark is not None
    lost.execute(insert.encode())
    os.kill(lost.info.backend_pid, signal.SIGKILL)
    with pytest.raises(psycopg.OperationalError):
        other.execute("SELECT pg_sleep(60)")  # until the server has noticed
    assert soon(lambda: _answers(postgres_url))
    while execute(postgres_url, insert)[0][0] < int(mark[0]):
        pass
    lost.close()
    other.close()
    assert execute(postgres_url, f"SELECT pg_xact_status('{mark[0]}')") == [("committed",)]
    assert not store.has_committed(mark)


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


def test_a_mutation_from_outside_asks_to_be_certain(postgres_url: str) -> None:
    """Its transaction has an id before it has written anything; that of a query has none."""
    manager = WorkflowManager(postgres_url)
    sql = "SELECT pg_current_xact_id_if_assigned() IS NOT NULL"

    @manager.mutation
    def changes(ctx: MutationContext) -> bool:
        (found,) = ctx.db.execute(sql).fetchone()
        assert isinstance(found, bool)
        return found

    @manager.query
    def looks(ctx: Any) -> bool:
        (found,) = ctx.db.execute(sql).fetchone()
        assert isinstance(found, bool)
        return found

    async def ask() -> tuple[bool, bool]:
        async with manager.client():
            return await manager.run_mutation(changes()), await manager.run_query(looks())

    assert asyncio.run(ask()) == (True, False)

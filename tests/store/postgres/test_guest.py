"""The engine's side of a transaction of the user's, on a psycopg connection. (The verbs over it:
tests/test_postgres_manager.py.)"""

from __future__ import annotations

import sqlite3
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from tests.store.postgres.databases import STILL, execute, soon

from perdure.errors import ConnectionMisuse
from perdure.store.postgres.store import PostgresStore


def guest(store: PostgresStore, connection: Any) -> Any:
    return store.guest(connection, max_parallelism=3)


def test_tables_are_made_in_the_users_transaction(postgres_url: str) -> None:
    """They go with it if it is rolled back."""
    store = PostgresStore(postgres_url)
    with psycopg.connect(postgres_url) as connection:
        assert guest(store, connection).config().max_parallelism == 3
        connection.rollback()
    assert execute(postgres_url, "SELECT to_regclass('perdure_config')") == [(None,)]
    with psycopg.connect(postgres_url) as connection:
        guest(store, connection)
    assert execute(postgres_url, "SELECT max_parallelism FROM perdure_config") == [(3,)]


def test_a_verb_that_raises_leaves_nothing(store: PostgresStore, postgres_url: str) -> None:
    """And the user's own writes stay."""

    class Stop(Exception):
        pass

    with psycopg.connect(postgres_url) as connection:
        connection.execute("INSERT INTO notes VALUES (1)")
        tx = guest(store, connection)

        def fail() -> None:
            tx.set_max_parallelism(50)
            raise Stop

        with pytest.raises(Stop):
            tx.run_engine_code(fail)
    assert execute(postgres_url, "SELECT x FROM notes") == [(1,)]
    assert store.reader().config().max_parallelism == 7


def test_others_hear_of_the_users_commit(store: PostgresStore, postgres_url: str) -> None:
    """Not before it."""
    store.has_changed()
    with psycopg.connect(postgres_url) as connection:
        tx = guest(store, connection)
        tx.run_engine_code(lambda: tx.set_max_parallelism(50))
        assert not store.has_changed()
    assert soon(store.has_changed)


def test_the_users_row_factory_is_not_ours(store: PostgresStore, postgres_url: str) -> None:
    """Rows are read as they are, whatever the user has them made of."""
    with psycopg.connect(postgres_url, row_factory=psycopg.rows.dict_row) as connection:
        assert guest(store, connection).config().max_parallelism == 7
        assert connection.execute("SELECT 1 AS x").fetchone() == {"x": 1}


@pytest.mark.parametrize("wrong", [None, "postgresql:///app", sqlite3.connect])
def test_only_a_psycopg_connection(store: PostgresStore, wrong: Any) -> None:
    """Anything else is refused by its type."""
    with pytest.raises(TypeError, match=r"give a psycopg\.Connection"):
        guest(store, wrong)


def test_a_closed_connection(store: PostgresStore, postgres_url: str) -> None:
    """Told as what it is, as over SQLite: nothing is asked of it."""
    with psycopg.connect(postgres_url) as connection:
        pass
    with pytest.raises(ConnectionMisuse, match="the connection is closed: keep it open"):
        guest(store, connection)


def test_the_engines_own_is_refused(store: PostgresStore) -> None:
    """In a mutation the verbs are at hand."""
    with store.transaction() as tx:
        with pytest.raises(ConnectionMisuse, match="use the verbs of its ctx"):
            guest(store, tx.db)


def test_a_transaction_that_failed_is_refused(store: PostgresStore, postgres_url: str) -> None:
    """PostgreSQL keeps nothing of it."""
    with psycopg.connect(postgres_url) as connection:
        tx = guest(store, connection)
        with pytest.raises(psycopg.Error):
            connection.execute("SELECT 1/0")
        with pytest.raises(ConnectionMisuse, match="has failed before: roll it back"):
            tx.run_engine_code(lambda: None)
        connection.rollback()
        with pytest.raises(ConnectionMisuse, match="has ended"):
            tx.run_engine_code(lambda: None)


def test_pipeline_mode_is_refused(store: PostgresStore, postgres_url: str) -> None:
    """The answers of the user's statements would be taken for ours."""
    with psycopg.connect(postgres_url) as connection:
        tx = guest(store, connection)
        with connection.pipeline():
            with pytest.raises(ConnectionMisuse, match="pipeline mode"):
                tx.run_engine_code(lambda: None)


def test_it_may_be_on_any_of_several_hosts(store: PostgresStore, postgres_url: str) -> None:
    """The address names all of them, the connection is to one."""
    with psycopg.connect(postgres_url) as connection:
        several = postgres_url.replace("?host=", "?port=1,5432&host=%2Fnowhere,")
        assert guest(PostgresStore(several), connection).config().max_parallelism == 7
        host = conninfo_to_dict(postgres_url)["host"]
        elsewhere = PostgresStore(postgres_url.replace("?host=", "?host=%2Fnowhere,%2Fnor"))
        with pytest.raises(ConnectionMisuse, match=f"on {host}"):
            guest(elsewhere, connection)


def test_another_store_is_no_matter(store: PostgresStore, postgres_url: str) -> None:
    """The address of a guest's store may have options of ours."""
    with psycopg.connect(postgres_url) as connection:
        other = PostgresStore(f"{postgres_url}{STILL}&pgbouncer=true")
        assert guest(other, connection).config().max_parallelism == 7

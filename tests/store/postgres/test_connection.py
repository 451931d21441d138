"""The fence around user code on the engine's connection, on a real server."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from tests.store.postgres.databases import end_connections, execute

from perdure.errors import ConnectionMisuse, StoreBusy, StoreError, StoreFull
from perdure.store.base import TransactionLost, UserRaisedStoreError
from perdure.store.postgres.store import PostgresStore


def mutate(store: PostgresStore, fn: Callable[[Any], object], *, read_only: bool = False) -> Any:
    """Run `fn` with ``ctx.db`` in a transaction of its own."""
    with store.transaction() as tx:
        return tx.run_user_code(lambda: fn(tx.db), read_only=read_only)


def execution(sql: str) -> Callable[[Any], object]:
    """A function that executes this."""
    return lambda db: db.execute(sql)


def rows(url: str) -> list[int]:
    return [row[0] for row in execute(url, "SELECT x FROM notes ORDER BY x")]


@pytest.mark.parametrize(
    ("refused", "named"),
    [
        (lambda db: db.commit(), r"commit\(\)"),
        (lambda db: db.rollback(), r"rollback\(\).*raise an exception"),
        (lambda db: db.__enter__(), r"with ctx.db:"),
        (lambda db: db.close(), r"close\(\)"),
        (lambda db: db.set_autocommit(False), r"set_autocommit\(\)"),
        (lambda db: setattr(db, "autocommit", False), r"set_autocommit\(\)"),
        (lambda db: setattr(db, "read_only", True), r"set_read_only\(\)"),
        (lambda db: setattr(db, "isolation_level", 1), r"set_isolation_level\(\)"),
        (lambda db: db.pipeline(), r"pipeline\(\)"),
        (lambda db: db.tpc_begin("x"), r"tpc_begin\(\)"),
        (lambda db: db.cursor("name"), r"cursor\(name=…\)"),
        (lambda db: db.cursor().stream("SELECT 1"), r"stream\(\)"),
        (lambda db: db.execute("COMMIT"), "COMMIT inside a step"),
        (lambda db: db.execute(" /* so */ -- !\n Rollback"), "ROLLBACK inside a step"),
        (lambda db: db.execute(b"BEGIN"), "BEGIN inside a step"),
        (lambda db: db.execute(psycopg.sql.SQL("END")), "END inside a step"),
        (lambda db: db.cursor().executemany("ABORT", [()]), "ABORT inside a step"),
        (lambda db: db.execute("SET search_path = x"), "use SET LOCAL"),
        (lambda db: db.execute("SELECT 1; COMMIT"), r"call execute\(\) for each"),
        (lambda db: db.execute("DELETE FROM perdure_steps"), "perdure_steps is the engine's own"),
    ],
)
def test_what_would_harm_the_transaction_is_refused(
    store: PostgresStore, postgres_url: str, refused: Callable[[Any], object], named: str
) -> None:
    """The error names it, and what the function wrote before is undone; all else is kept."""

    def function(db: Any) -> None:
        db.execute("INSERT INTO notes VALUES (2)")
        refused(db)

    with store.transaction() as tx:
        tx.run_user_code(lambda: tx.db.execute("INSERT INTO notes VALUES (1)"), read_only=False)
        with pytest.raises(ConnectionMisuse, match=named):
            tx.run_user_code(lambda: function(tx.db), read_only=False)
    assert rows(postgres_url) == [1]


def test_a_refusal_that_is_swallowed_harms_nothing(store: PostgresStore, postgres_url: str) -> None:
    """What was refused did not happen: the function may go on."""

    def function(db: Any) -> None:
        db.execute("INSERT INTO notes VALUES (1)")
        with pytest.raises(ConnectionMisuse):
            db.execute("COMMIT")

    mutate(store, function)
    assert rows(postgres_url) == [1]


@pytest.mark.parametrize(
    "write",
    [
        "INSERT INTO notes VALUES (9)",
        "WITH x AS (INSERT INTO notes VALUES (9) RETURNING x) SELECT * FROM x",
        "CREATE TABLE more (x int)",
        "SELECT nextval('perdure_epochs')",
    ],
)
def test_a_query_cannot_write(store: PostgresStore, postgres_url: str, write: str) -> None:
    """Whatever the statement looks like: the server itself refuses."""
    with pytest.raises(ConnectionMisuse, match="a query must not write: make it a mutation"):
        mutate(store, lambda db: db.execute(write), read_only=True)
    assert rows(postgres_url) == []


def test_a_query_cannot_make_itself_a_mutation(store: PostgresStore) -> None:
    """Neither by SET nor by the function that does the same."""
    for sql in ("SET LOCAL transaction_read_only = off", "SET TRANSACTION READ WRITE"):
        with pytest.raises((ConnectionMisuse, psycopg.Error)):
            mutate(store, execution(sql), read_only=True)
    change = execution("SELECT set_config('transaction_read_only', 'off', true)")
    with pytest.raises(psycopg.Error, match="read-only"):
        mutate(store, change, read_only=True)


def test_after_a_query_others_write(store: PostgresStore, postgres_url: str) -> None:
    """Being read-only ends with the query, whether it succeeded or not."""
    with store.transaction() as tx:
        tx.run_user_code(lambda: tx.db.execute("SELECT 1"), read_only=True)
        with pytest.raises(psycopg.Error):
            tx.run_user_code(lambda: tx.db.execute("SELECT 1/0"), read_only=True)
        tx.add_worker("w", 1)
        tx.run_user_code(lambda: tx.db.execute("INSERT INTO notes VALUES (1)"), read_only=False)
    assert rows(postgres_url) == [1]
    assert len(store.reader().workers()) == 1


def test_settings_end_with_the_step(store: PostgresStore) -> None:
    """What one step set, in whatever way, neither the engine nor the next step sees."""
    with store.transaction() as tx:
        for sql in (
            "SET LOCAL search_path = pg_catalog",
            "SELECT set_config('search_path', 'pg_catalog', true)",
            "SET LOCAL ROLE pg_monitor",
        ):
            setting = execution(sql)
            tx.run_user_code(lambda setting=setting: setting(tx.db), read_only=False)  # type: ignore[misc]
            assert tx.config().max_parallelism == 7
            tx.run_user_code(lambda: tx.db.execute("SELECT x FROM notes"), read_only=False)


def test_the_users_factories_end_with_the_step(store: PostgresStore) -> None:
    """Rows are tuples again for the next one."""
    with store.transaction() as tx:

        def change() -> None:
            tx.db.row_factory = psycopg.rows.dict_row

        tx.run_user_code(change, read_only=False)
        found = tx.run_user_code(lambda: tx.db.execute("SELECT 1").fetchone(), read_only=False)
    assert found == (1,)


def test_a_part_can_be_undone(store: PostgresStore, postgres_url: str) -> None:
    """`with ctx.db.transaction():` is a savepoint: after an error in it the function goes on."""

    def function(db: Any) -> None:
        db.execute("INSERT INTO notes VALUES (1)")
        with contextlib.suppress(psycopg.errors.DivisionByZero), db.transaction():
            db.execute("INSERT INTO notes VALUES (2)")
            db.execute("SELECT 1/0")
        db.execute("INSERT INTO notes VALUES (3)")

    mutate(store, function)
    assert rows(postgres_url) == [1, 3]


def test_an_error_that_is_swallowed_is_none_the_less_one(
    store: PostgresStore, postgres_url: str
) -> None:
    """PostgreSQL keeps nothing after it: so the function fails, and is told how to do it."""

    def function(db: Any) -> None:
        db.execute("INSERT INTO notes VALUES (1)")
        with pytest.raises(psycopg.Error):
            db.execute("SELECT 1/0")

    with store.transaction() as tx:
        tx.add_worker("w", 1)
        with pytest.raises(ConnectionMisuse, match=r"division by zero.*ctx.db.transaction\(\)"):
            tx.run_user_code(lambda: function(tx.db), read_only=False)
    assert rows(postgres_url) == []
    assert len(store.reader().workers()) == 1


def test_copy_works(store: PostgresStore, postgres_url: str) -> None:
    """In and out, as far as it stays in the step."""

    def function(db: Any) -> list[Any]:
        with db.cursor().copy("COPY notes FROM STDIN") as copy:
            copy.write_row((1,))
            copy.write_row((2,))
        with db.cursor().copy("COPY notes TO STDOUT") as copy:
            return list(copy.rows())

    assert mutate(store, function) == [("1",), ("2",)]
    assert rows(postgres_url) == [1, 2]


def test_many_rows_at_once(store: PostgresStore, postgres_url: str) -> None:
    """`executemany`, and a statement run so often that psycopg prepares it."""

    def function(db: Any) -> None:
        db.cursor().executemany("INSERT INTO notes VALUES (%s)", [(n,) for n in range(3)])
        for n in range(3, 20):
            db.execute("INSERT INTO notes VALUES (%s)", (n,))

    mutate(store, function)
    assert rows(postgres_url) == list(range(20))


def test_outside_of_a_step_it_is_of_no_use(store: PostgresStore) -> None:
    """Neither the connection nor a cursor that was kept."""
    kept: list[Any] = []
    mutate(store, lambda db: kept.extend((db, db.cursor())))
    for one in kept:
        with pytest.raises(ConnectionMisuse, match="outside of the step"):
            one.execute("SELECT 1")


def test_another_thread_cannot_use_it(store: PostgresStore) -> None:
    """It would come between the engine's own statements."""
    caught: list[BaseException] = []

    def function(db: Any) -> None:
        def use() -> None:
            try:
                db.execute("SELECT 1")
            except ConnectionMisuse as error:
                caught.append(error)

        thread = threading.Thread(target=use)
        thread.start()
        thread.join()

    mutate(store, function)
    assert "another thread" in str(caught[0])


# --- whose fault it is


def test_a_store_error_of_the_users_is_the_users(store: PostgresStore) -> None:
    """A function that raises one fails; the database is in no trouble."""

    def function(_db: Any) -> None:
        raise StoreFull("another store's")

    with pytest.raises(UserRaisedStoreError):
        mutate(store, function)


def test_a_lost_connection_is_nobodys_fault(store: PostgresStore, postgres_url: str) -> None:
    """It is trouble of the store's, also if the function swallows it."""

    def function(db: Any) -> None:
        end_connections(postgres_url)
        with pytest.raises(psycopg.Error):
            db.execute("SELECT 1")

    with pytest.raises(StoreError):
        mutate(store, function)


def test_a_deadlock_is_tried_again(store: PostgresStore, postgres_url: str) -> None:
    """It is no failure of the function's: the store is busy."""
    execute(postgres_url, "INSERT INTO notes VALUES (1), (2)")
    ready = threading.Event()

    def function(db: Any) -> None:
        db.execute("UPDATE notes SET x = x WHERE x = 1")
        thread.start()
        ready.wait(10)
        db.execute("UPDATE notes SET x = x WHERE x = 2")

    def other() -> None:
        with psycopg.connect(postgres_url) as connection:
            connection.execute("SET deadlock_timeout = '1h'")
            connection.execute("UPDATE notes SET x = x WHERE x = 2")
            ready.set()
            connection.execute("UPDATE notes SET x = x WHERE x = 1")

    thread = threading.Thread(target=other)
    with pytest.raises(StoreBusy, match="40P01"):
        mutate(store, function)
    thread.join()


def test_a_lock_of_somebody_elses_is_tried_again(store: PostgresStore, postgres_url: str) -> None:
    """If the function does not handle it."""
    with psycopg.connect(postgres_url) as other:
        other.execute("LOCK TABLE notes")
        with pytest.raises(StoreBusy, match="55P03"):
            mutate(store, lambda db: db.execute("LOCK TABLE notes NOWAIT"))


def test_a_constraint_that_is_checked_at_the_commit_poisons_it(
    store: PostgresStore, postgres_url: str
) -> None:
    """The engine can tell: the function is to blame, and not the store."""
    execute(postgres_url, "CREATE TABLE a (x int PRIMARY KEY)")
    execute(postgres_url, "CREATE TABLE b (x int REFERENCES a DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(psycopg.errors.ForeignKeyViolation) as caught:
        mutate(store, lambda db: db.execute("INSERT INTO b VALUES (1)"))
    assert store.is_poisoned(caught.value)


def test_a_function_that_stands_still_too_long_loses_the_transaction(postgres_url: str) -> None:
    """The server ends it before the worker's lease is over; the function is to blame."""
    store = PostgresStore(f"{postgres_url}&lease=1")
    store.open(max_parallelism=None)

    def function(db: Any) -> None:
        threading.Event().wait(1.2)
        db.execute("SELECT 1")

    with pytest.raises(TransactionLost):
        mutate(store, function)
    assert store.reader().config().max_parallelism == 100
    store.close()

"""The engine's rows in a transaction that the user opened."""

from __future__ import annotations

import gc
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from perdure.errors import (
    ConnectionMisuse,
    StoreBusy,
    StoreError,
    StoreReadOnly,
    StoreVersionError,
)
from perdure.store.base import TransactionLost
from perdure.store.connection import Connection
from perdure.store.sqlite import SqliteStore
from perdure.store.sqlite_guest import Guest


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "app.db")


@pytest.fixture
def user(path: str) -> Iterator[sqlite3.Connection]:
    """The user's own connection."""
    connection = sqlite3.connect(path, timeout=0)
    yield connection
    connection.close()


def guest_of(path: str, connection: Any) -> Guest:
    return SqliteStore(path).guest(connection, max_parallelism=7)


def tables(path: str) -> list[str]:
    with sqlite3.connect(path) as other:
        found = [row[0] for row in other.execute("SELECT name FROM sqlite_master")]
    other.close()
    return found


def test_tables_are_made_with_the_transaction(path: str, user: sqlite3.Connection) -> None:
    """In a file that no manager has opened yet: with the user's commit, or not at all."""
    guest_of(path, user)
    user.rollback()
    assert tables(path) == []
    guest_of(path, user)
    user.commit()
    assert "perdure_workflows" in tables(path)
    store = SqliteStore(path)
    store.open(max_parallelism=None)
    assert store.reader().config().max_parallelism == 7
    store.close()


def test_a_transaction_is_opened_where_sqlite3_would_open_one(
    path: str, user: sqlite3.Connection
) -> None:
    """With the write lock at once: what the verbs read is true when they write."""
    guest_of(path, user)
    assert user.in_transaction
    other = sqlite3.connect(path, timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")
    other.close()


def test_without_a_transaction_nothing_is_done(path: str) -> None:
    """Where sqlite3 commits each statement by itself, the user has to begin."""
    user = sqlite3.connect(path, isolation_level=None)
    with pytest.raises(ConnectionMisuse, match="execute BEGIN IMMEDIATE first"):
        guest_of(path, user)
    user.execute("BEGIN")
    guest = guest_of(path, user)
    assert guest.db is user
    user.execute("COMMIT")
    with pytest.raises(ConnectionMisuse, match="has ended"):
        guest.run_engine_code(lambda: None)
    user.close()


def test_only_connections_to_the_same_file_will_do(path: str, tmp_path: Path) -> None:
    """Neither another file, nor one in memory, nor something else."""
    for other in (tmp_path / "other.db", ":memory:"):
        user = sqlite3.connect(other)
        with pytest.raises(ConnectionMisuse, match=r"the manager's store is .*app\.db"):
            guest_of(path, user)
        assert not user.in_transaction
        user.close()
    with pytest.raises(TypeError, match=r"give an sqlite3\.Connection"):
        guest_of(path, "app.db")
    memory = sqlite3.connect(":memory:")
    with pytest.raises(ConnectionMisuse, match="store is in memory"):
        guest_of(":memory:", memory)
    memory.close()
    ours = sqlite3.connect(path, factory=Connection)
    with pytest.raises(ConnectionMisuse, match="use the verbs of its ctx"):
        guest_of(path, ours)
    ours.close()


def test_another_way_to_the_file_will_do(path: str, tmp_path: Path) -> None:
    """A link to it, for instance."""
    sqlite3.connect(path).close()
    link = tmp_path / "link.db"
    link.symlink_to(path)
    user = sqlite3.connect(link)
    assert guest_of(path, user).config().max_parallelism == 7
    user.close()


def test_tables_of_others_are_left_alone(path: str, user: sqlite3.Connection) -> None:
    """What only looks like ours, and what a newer perdure has made."""
    user.execute("CREATE TABLE perdure_things (x)")
    with pytest.raises(StoreError, match="but not perdure's tables"):
        guest_of(path, user)
    user.execute("DROP TABLE perdure_things")
    guest_of(path, user)
    user.execute("UPDATE perdure_config SET schema_version = 99")
    with pytest.raises(StoreVersionError, match="newer"):
        guest_of(path, user)


def test_what_fails_is_undone_and_the_rest_stays(path: str, user: sqlite3.Connection) -> None:
    """The user's own writes, and what was done before, are still there to be committed."""
    user.execute("CREATE TABLE mine (x)")
    user.execute("INSERT INTO mine VALUES (1)")
    guest = guest_of(path, user)

    def fail() -> None:
        guest.set_max_parallelism(1)
        raise ValueError("no")

    guest.run_engine_code(lambda: guest.set_max_parallelism(5))
    with pytest.raises(ValueError, match="no"):
        guest.run_engine_code(fail)
    assert guest.config().max_parallelism == 5
    user.commit()
    assert user.execute("SELECT x FROM mine").fetchall() == [(1,)]


def test_the_user_s_factories_do_not_matter(path: str, user: sqlite3.Connection) -> None:
    """Rows of the engine are tuples of texts, whatever the user makes of his own."""
    user.row_factory, user.text_factory = sqlite3.Row, bytes
    guest = guest_of(path, user)
    guest.add_worker("w", 1)
    assert guest.run_engine_code(guest.workers)[0].worker_id == "w"
    assert user.text_factory is bytes
    (row,) = user.execute("SELECT id FROM perdure_workers")
    assert row["id"] == b"w"


def test_user_code_that_ends_the_transaction(path: str, user: sqlite3.Connection) -> None:
    """It is noticed, and nothing more is written."""
    guest = guest_of(path, user)
    with pytest.raises(TransactionLost):
        guest.run_user_code(user.commit, read_only=False)
    assert not user.in_transaction


def in_a_thread(fn: Callable[[], object]) -> BaseException | None:
    """What a function raises in a thread of its own."""
    found: list[BaseException] = []

    def run() -> None:
        try:
            fn()
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0] if found else None


def test_a_closed_connection(path: str, user: sqlite3.Connection) -> None:
    """Before, and between two verbs."""
    guest = guest_of(path, user)
    user.close()
    with pytest.raises(ConnectionMisuse, match="the connection is closed: keep it open"):
        guest.run_engine_code(guest.config)
    with pytest.raises(ConnectionMisuse, match="the connection is closed: keep it open"):
        guest_of(path, user)


def test_a_connection_of_another_thread(path: str, user: sqlite3.Connection) -> None:
    """Unless sqlite3 was told that it is looked after. Nothing is begun, nothing ended."""
    error = in_a_thread(lambda: guest_of(path, user))
    assert isinstance(error, ConnectionMisuse)
    assert "in the thread that opened it" in str(error)
    assert not user.in_transaction
    guest = guest_of(path, user)
    error = in_a_thread(lambda: guest.run_engine_code(guest.config))
    assert isinstance(error, ConnectionMisuse)
    assert user.in_transaction
    shared = sqlite3.connect(path, check_same_thread=False, timeout=0)
    user.rollback()
    assert in_a_thread(lambda: guest_of(path, shared)) is None
    shared.close()


def test_what_the_user_forbids_or_breaks(path: str, user: sqlite3.Connection) -> None:
    """SQLite's own error says little: told as a misuse, and nothing of the verb is left."""
    guest = guest_of(path, user)
    user.set_authorizer(lambda *_: sqlite3.SQLITE_DENY)
    with pytest.raises(ConnectionMisuse, match=r"not authorized: take your authorizer off"):
        guest.run_engine_code(guest.config)
    user.set_authorizer(None)
    user.execute("DROP TABLE perdure_config")
    with pytest.raises(ConnectionMisuse, match="no such table: perdure_config"):
        guest.run_engine_code(guest.config)
    assert user.in_transaction


@pytest.mark.parametrize("isolation", ["", "DEFERRED", "IMMEDIATE", "EXCLUSIVE"])
def test_modes_in_which_sqlite3_begins(path: str, isolation: Any) -> None:
    """A transaction is begun, or the one that is open is taken; `commit` ends it."""
    for statement in (None, "BEGIN", "BEGIN IMMEDIATE"):
        user = sqlite3.connect(path, isolation_level=isolation)
        if statement is not None:
            user.execute(statement)
        guest_of(path, user).set_max_parallelism(5)
        user.commit()
        user.close()
        assert "perdure_config" in tables(path)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the attribute came with 3.12")
def test_the_modes_of_python_3_12(path: str) -> None:
    """`autocommit=False`: there is always a transaction. True: the user has to begin."""
    connect: Any = sqlite3.connect
    user = connect(path, autocommit=False)
    guest_of(path, user)
    user.commit()
    guest_of(path, user).set_max_parallelism(5)
    user.rollback()
    assert guest_of(path, user).config().max_parallelism == 7
    user.close()
    user = connect(path, autocommit=True)
    with pytest.raises(ConnectionMisuse, match="execute BEGIN IMMEDIATE first"):
        guest_of(path, user)
    user.execute("BEGIN IMMEDIATE")
    guest_of(path, user).set_max_parallelism(5)
    user.execute("COMMIT")
    user.execute("BEGIN")
    assert guest_of(path, user).config().max_parallelism == 5
    user.close()


def test_a_transaction_that_has_read_before_another_wrote(path: str) -> None:
    """It can write no more, however long it waits: it must be begun anew."""
    store = SqliteStore(path)
    store.open(max_parallelism=None)
    store.close()
    user, other = sqlite3.connect(path, timeout=0), sqlite3.connect(path)
    user.execute("BEGIN")
    user.execute("SELECT * FROM perdure_config").fetchall()
    guest_of(path, other).set_max_parallelism(5)
    other.commit()
    guest = guest_of(path, user)
    with pytest.raises(StoreBusy, match="roll back, and begin anew with BEGIN IMMEDIATE"):
        guest.run_engine_code(lambda: guest.set_max_parallelism(6))
    for each in (user, other):
        each.close()


def test_an_error_leaves_no_lock_behind(path: str) -> None:
    """Once the user has closed his connection; the garbage collector may come much later."""
    store = SqliteStore(path)
    store.open(max_parallelism=None)
    store.close()

    def fail() -> None:
        user = sqlite3.connect(path)
        guest = guest_of(path, user)
        user.execute("PRAGMA query_only = 1")
        with pytest.raises(StoreReadOnly):
            guest.run_engine_code(lambda: guest.set_max_parallelism(5))
        user.close()

    gc.disable()
    try:
        fail()
        other = sqlite3.connect(path, timeout=0)
        other.execute("BEGIN IMMEDIATE")
        other.close()
    finally:
        gc.enable()


def test_a_lock_that_somebody_else_holds(path: str, user: sqlite3.Connection) -> None:
    """It is told as the store's trouble."""
    store = SqliteStore(path)
    store.open(max_parallelism=None)
    other = sqlite3.connect(path)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy):
        guest_of(path, user)
    other.close()
    store.close()

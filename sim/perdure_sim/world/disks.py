"""Where the store of a simulated world lies: how a process opens it, and how it dies with one."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import attrs

from perdure.store.base import GuestTransaction, Store
from perdure.store.connection import translate
from perdure.store.sqlite import SqliteStore

from ..stores.memory import MemoryDatabase, MemoryStore
from ..stores.memory_users import image_of
from .faulty_store import Over

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class Disk:
    """One database, and the processes that have it open.

    Attributes:
        open: a store for a new process.
        crash: the process of this store has died: what it had not committed is undone, and its
            locks are free.
        lose_lease: the others take this worker for dead, though it lives.
        keep_commits: remember from now on how to undo them, for `undo_commits`.
        count_commits: how many there were since.
        undo_commits: all but the first so many are lost. No process lives. None if none can be.
        over: runs a function in a transaction that the application opens itself, on a connection
            of its own, beside those of this store, and commits it; what is to be called before the
            commit may raise. If anything raises, nothing is stored.
        connect: to the application's own tables, as a reader finds them now: the connection of the
            database's own driver.
        prepare: have the application make its tables, before any process opens the store.
        close: the world has ended.
    """

    open: Callable[[], Store]
    crash: Callable[[Store], None]
    lose_lease: Callable[[str], None]
    keep_commits: Callable[[], None]
    count_commits: Callable[[], int]
    undo_commits: Callable[[int], None] | None
    over: Over
    connect: Callable[[], Any]
    prepare: Callable[[Callable[[Any], object]], None]
    close: Callable[[], None]


def over_sqlite(connect: Callable[[], sqlite3.Connection]) -> Over:
    """`Disk.over` on SQLite, by the production engine's code for the transactions of users."""

    def over(
        store: Store, fn: Callable[[GuestTransaction], T], before_commit: Callable[[], None]
    ) -> T:
        assert isinstance(store, SqliteStore)
        with contextlib.closing(connect()) as connection:
            try:
                guest = store.guest(connection, max_parallelism=None)
                value = fn(guest)
                guest.check_open()
                before_commit()
                connection.commit()
            except BaseException as error:
                connection.rollback()
                trouble = translate(error, store.path)
                if trouble is not None:
                    raise trouble from error
                raise
        return value

    return over


def sqlite_disk(path: Path) -> Disk:
    """An SQLite file; its workers hold real locks, so none can be taken for dead that lives.

    What is committed is never lost: a power loss only kills all processes.
    """

    def crash(store: Store) -> None:
        assert isinstance(store, SqliteStore)
        with contextlib.suppress(sqlite3.Error):
            if store._connection is not None:
                store._connection.rollback()
        store.close()

    def prepare(make_tables: Callable[[sqlite3.Connection], object]) -> None:
        with contextlib.closing(sqlite3.connect(path)) as db:
            make_tables(db)
            db.commit()

    return Disk(
        open=lambda: SqliteStore(str(path), durability="process"),
        crash=crash,
        lose_lease=lambda worker_id: None,
        keep_commits=lambda: None,
        count_commits=lambda: 0,
        undo_commits=None,
        over=over_sqlite(lambda: sqlite3.connect(path)),
        connect=lambda: sqlite3.connect(path),
        prepare=prepare,
        close=lambda: None,
    )


def memory_disk() -> Disk:
    """The model store: fast, and the one whose workers can be taken for dead while they live."""
    database = MemoryDatabase()

    def prepare(make_tables: Callable[[sqlite3.Connection], object]) -> None:
        nonlocal database
        database.close()
        database = MemoryDatabase(image_of(make_tables))

    def crash(store: Store) -> None:
        assert isinstance(store, MemoryStore)
        database.crash(store)

    def connect() -> sqlite3.Connection:
        copy = sqlite3.connect(":memory:")
        database.user_tables.backup(copy)
        return copy

    def lose_lease(worker_id: str) -> None:
        database.lose_lease(worker_id)

    def over(
        store: Store, fn: Callable[[GuestTransaction], T], before_commit: Callable[[], None]
    ) -> T:
        return database.over(store, fn, before_commit)

    def keep_commits() -> None:
        database.keep_commits()

    def count_commits() -> int:
        return database.count_commits()

    def undo_commits(count: int) -> None:
        database.undo_commits(count)

    def close() -> None:
        database.close()

    return Disk(
        open=lambda: MemoryStore(database),
        crash=crash,
        lose_lease=lose_lease,
        keep_commits=keep_commits,
        count_commits=count_commits,
        undo_commits=undo_commits,
        over=over,
        connect=connect,
        prepare=prepare,
        close=close,
    )

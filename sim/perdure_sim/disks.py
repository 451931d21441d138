"""Where the store of a simulated world lies: how a process opens it, and how it dies with one."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import attrs

from perdure.store.base import Store
from perdure.store.sqlite import SqliteStore

from .memory import MemoryDatabase, MemoryStore


@attrs.frozen(kw_only=True)
class Disk:
    """One database, and the processes that have it open.

    Attributes:
        open: a store for a new process.
        crash: the process of this store has died: what it had not committed is undone, and its
            locks are free.
        lose_lease: the others take this worker for dead, though it lives.
        connect: to the application's own tables, as a reader finds them now.
        prepare: have the application make its tables, before any process opens the store.
        close: the world has ended.
    """

    open: Callable[[], Store]
    crash: Callable[[Store], None]
    lose_lease: Callable[[str], None]
    connect: Callable[[], sqlite3.Connection]
    prepare: Callable[[Callable[[sqlite3.Connection], object]], None]
    close: Callable[[], None]


def sqlite_disk(path: Path) -> Disk:
    """An SQLite file; its workers hold real locks, so none can be taken for dead that lives."""

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
        connect=lambda: sqlite3.connect(path),
        prepare=prepare,
        close=lambda: None,
    )


def memory_disk() -> Disk:
    """The model store: fast, and the one whose workers can be taken for dead while they live."""
    database = MemoryDatabase()
    template: sqlite3.Connection | None = None

    def prepare(make_tables: Callable[[sqlite3.Connection], object]) -> None:
        nonlocal database, template
        template = sqlite3.connect(":memory:")
        make_tables(template)
        template.commit()
        database.close()
        database = MemoryDatabase(template)

    def crash(store: Store) -> None:
        assert isinstance(store, MemoryStore)
        database.crash(store)

    def connect() -> sqlite3.Connection:
        copy = sqlite3.connect(":memory:")
        database.user_tables.backup(copy)
        return copy

    def lose_lease(worker_id: str) -> None:
        database.lose_lease(worker_id)

    def close() -> None:
        database.close()
        if template is not None:
            template.close()

    return Disk(
        open=lambda: MemoryStore(database),
        crash=crash,
        lose_lease=lose_lease,
        connect=connect,
        prepare=prepare,
        close=close,
    )

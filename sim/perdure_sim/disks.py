"""Where the store of a simulated world lies: how a process opens it, and how it dies with one."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import attrs

from perdure.store.base import Store
from perdure.store.sqlite import SqliteStore


@attrs.frozen(kw_only=True)
class Disk:
    """One database, and the processes that have it open.

    Attributes:
        open: a store for a new process.
        crash: the process of this store has died: what it had not committed is undone, and its
            locks are free.
        lose_lease: the others take this worker for dead, though it lives.
        connect: to the application's own tables, as a reader finds them.
    """

    open: Callable[[], Store]
    crash: Callable[[Store], None]
    lose_lease: Callable[[str], None]
    connect: Callable[[], sqlite3.Connection]


def sqlite_disk(path: Path) -> Disk:
    """An SQLite file; its workers hold real locks, so none can be taken for dead that lives."""

    def crash(store: Store) -> None:
        assert isinstance(store, SqliteStore)
        with contextlib.suppress(sqlite3.Error):
            if store._connection is not None:
                store._connection.rollback()
        store.close()

    return Disk(
        open=lambda: SqliteStore(str(path), durability="process"),
        crash=crash,
        lose_lease=lambda worker_id: None,
        connect=lambda: sqlite3.connect(path),
    )

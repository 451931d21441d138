"""Where the store of a test's runs lies: SQLite in memory, the model store, or PostgreSQL."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any, Literal, Protocol, TypeAlias

import attrs

from perdure.definitions import Definer
from perdure.manager import WorkflowManager

from ..stores.memory import MemoryDatabase, MemoryStore
from ..stores.memory_users import image_of
from ..stores.sqlite_memory import SqliteMemory
from ..world.disks import Disk
from .database import Database

#: ``"sqlite"``: in memory, with the production store's code; ``"memory"``: the model store;
#: ``"postgresql"``: the production store on a real server.
StoreName: TypeAlias = Literal["memory", "sqlite", "postgresql"]

Setup: TypeAlias = Callable[[Any], object]

#: The environment variable with the address of a database to simulate in, where it is not that of
#: the manager's own store.
POSTGRESQL = "PERDURE_SIM_POSTGRESQL"


class Disks(Protocol):
    """Makes a disk for each of the runs that follow each other."""

    def __call__(self) -> Disk:
        """The disk of the next run, with the application's tables as `setup` made them."""
        ...

    def close(self) -> None:
        """There are no more runs."""
        ...


def store_of(manager: Definer, store: str | None) -> StoreName:
    """Which store a manager's workflows are simulated on.

    Raises:
        ValueError: there is no such store.
    """
    if store is None:
        address = manager.store_url if isinstance(manager, WorkflowManager) else ""
        return "postgresql" if _is_postgresql(address) else "sqlite"
    if store == "memory":
        return "memory"
    if store == "sqlite":
        return "sqlite"
    if store == "postgresql":
        return "postgresql"
    raise ValueError(
        f"store={store!r}: give 'sqlite', 'memory' or 'postgresql', or None for the manager's kind"
    )


def _is_postgresql(address: str) -> bool:
    return address.startswith(("postgresql://", "postgres://"))


def make_disks(store: StoreName, setup: Setup | None, manager: Definer) -> Disks:
    """Makes the disks of a test's runs. Close it at the end.

    Raises:
        ValueError: it is not known where the PostgreSQL database is.
    """
    match store:
        case "memory":
            return MemoryDisks(setup)
        case "sqlite":
            return SqliteDisks(setup)
    return PostgresDisks(setup, _address_of(manager))


def _address_of(manager: Definer) -> str:
    own = manager.store_url if isinstance(manager, WorkflowManager) else ""
    address = os.environ.get(POSTGRESQL) or own
    if not _is_postgresql(address):
        raise ValueError(
            f"store='postgresql': it is not known where the database is: set {POSTGRESQL} to"
            " postgresql://…, the address of one for tests"
        )
    return address


class SqliteDisks:
    """SQLite in memory: one database, put back before each run."""

    def __init__(self, setup: Setup | None) -> None:
        self._setup = setup
        self._memory = SqliteMemory()

    def __call__(self) -> Disk:
        """See `Disks`."""
        disk = self._memory()
        if self._setup is not None:
            disk.prepare(self._setup)
        return attrs.evolve(disk, connect=self._connect)

    def close(self) -> None:
        """See `Disks`."""
        self._memory.close()

    def _connect(self) -> Database:
        database = self._memory._database
        assert database is not None, "no process has opened the store"
        found = sqlite3.connect(database._uri, uri=True, factory=Database)
        found.execute("PRAGMA query_only = ON")
        return found


class MemoryDisks:
    """The model store; the application's tables are copied from those that `setup` made."""

    def __init__(self, setup: Setup | None) -> None:
        self._setup = setup
        self._template: bytes | None = None

    def __call__(self) -> Disk:
        """See `Disks`."""
        if self._template is None:
            self._template = b"" if self._setup is None else image_of(self._setup)
        database = MemoryDatabase(self._template)
        return Disk(
            open=lambda: MemoryStore(database),
            crash=lambda store: database.crash(_model(store)),
            lose_lease=database.lose_lease,
            keep_commits=database.keep_commits,
            count_commits=database.count_commits,
            undo_commits=database.undo_commits,
            over=database.over,
            connect=lambda: _copy_of(database),
            prepare=lambda setup: None,
            close=database.close,
        )

    def close(self) -> None:
        """See `Disks`."""


class PostgresDisks:
    """PostgreSQL: schemas of their own in a real database; `setup` is called before each run."""

    def __init__(self, setup: Setup | None, address: str) -> None:
        # Here, because psycopg may not be installed.
        from ..stores.postgres import PostgresSchemas

        self._setup = setup
        self._schemas = PostgresSchemas(address)

    def __call__(self) -> Disk:
        """See `Disks`."""
        disk = self._schemas()
        if self._setup is not None:
            disk.prepare(self._setup)
        return attrs.evolve(disk, connect=lambda: self._read_only(disk.connect()))

    def close(self) -> None:
        """See `Disks`."""
        self._schemas.close()

    def _read_only(self, connection: Any) -> Any:
        connection.execute("SET default_transaction_read_only = on")
        return connection


class OneDisk:
    """The disks of somebody else, with what `sim.db` needs."""

    def __init__(self, make: Callable[[], Disk]) -> None:
        self._make = make

    def __call__(self) -> Disk:
        """See `Disks`."""
        disk = self._make()

        def connect() -> Database:
            """A copy, made anew at each statement."""
            found = sqlite3.connect(":memory:", factory=Database)

            def refresh() -> None:
                with closing(disk.connect()) as live:
                    live.backup(found)

            found.refresh = refresh
            return found

        return attrs.evolve(disk, connect=connect)

    def close(self) -> None:
        """See `Disks`."""


def _model(store: object) -> MemoryStore:
    assert isinstance(store, MemoryStore)
    return store


def _copy_of(database: MemoryDatabase) -> Database:
    """A copy of the application's tables, made anew when they may have changed."""
    found = sqlite3.connect(":memory:", factory=Database)
    seen: tuple[int, int] | None = None

    def refresh() -> None:
        nonlocal seen
        now = (database._commits, database.count_commits())
        if now != seen:
            seen = now
            database.user_tables.backup(found)

    found.execute("PRAGMA query_only = ON")
    found.refresh = refresh
    return found

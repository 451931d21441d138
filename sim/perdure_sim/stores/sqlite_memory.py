"""An SQLite database in memory that serves one run after the other.

To make the tables anew for each run, and to have each process's connection compile all statements
anew, takes longer than the run itself. So the database stays, its rows are put back to what they
were, and a process that dies gives its connections back, rolled back, for the next one to use.
Connections to a file, and their opening and closing, are what `disks.sqlite_disk` is for.
"""

from __future__ import annotations

import itertools
import sqlite3
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from perdure.errors import NotOpen
from perdure.store.base import Store
from perdure.store.connection import Connection, translate
from perdure.store.readers import Rows
from perdure.store.sqlite import SqliteStore, _OpenTransaction
from perdure.store.sqlite_guest import Guest

from ..world.disks import Disk, over_sqlite

Setup = Callable[[sqlite3.Connection], object]

AnyConnection = TypeVar("AnyConnection", bound=sqlite3.Connection)

_numbers = itertools.count()


class SqliteMemory:
    """Makes the disks of runs that follow each other, all in one database. Close it at the end."""

    def __init__(self) -> None:
        self._database: _Database | None = None
        self._setup: Setup | None = None

    def __call__(self) -> Disk:
        """The disk of the next run."""
        run = _Run(self)

        def crash(store: Store) -> None:
            store.close()

        return Disk(
            open=lambda: PooledStore(run),
            crash=crash,
            lose_lease=run.lose_lease,
            keep_commits=lambda: None,
            count_commits=lambda: 0,
            undo_commits=None,  # as of a file: what is committed is never lost
            over=over_sqlite(lambda: run.database().connect()),
            connect=lambda: run.database().connect(),
            prepare=run.prepare,
            close=run.close,
        )

    def database(self, setup: Setup | None) -> _Database:
        """The database as it is before a run whose application makes its tables with `setup`."""
        database = self._database
        if database is None or self._setup is not setup or not database.reset():
            self.close()
            database = self._database = _Database(setup)
            self._setup = setup
        return database

    def close(self) -> None:
        """Close all connections."""
        if self._database is not None:
            self._database.close()
            self._database = None


class _Database:
    """The database, what it is put back to, and the connections that nobody uses now.

    A fuzzer runs a test as often as it likes, and does not say when it has ended: so its
    connections are closed with it at the latest, by whichever thread is the last to know of it.
    """

    def __init__(self, setup: Setup | None) -> None:
        self._uri = f"file:/perdure-simulation-{next(_numbers)}?vfs=memdb"
        self.idle: list[Connection] = []
        self._open: list[sqlite3.Connection] = []
        weakref.finalize(self, _close, self._open)
        try:
            self._make(setup)
        except BaseException:
            self.close()
            raise

    def _make(self, setup: Setup | None) -> None:
        # Held open: the database is gone with its last connection.
        self._keeper = self._connect(sqlite3.Connection)
        store = _Maker(self)
        store.open(max_parallelism=None)
        store.close()
        if setup is not None:
            setup(self._keeper)
            self._keeper.commit()
        self._schema = self._schema_version()
        names = self._keeper.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0"
        ).fetchall()
        self._rows: list[tuple[str, str, list[Any]]] = []
        for (name,) in names:
            rows = self._keeper.execute(f'SELECT * FROM "{name}"').fetchall()
            marks = ", ".join("?" * len(rows[0])) if rows else ""
            insert = f'INSERT INTO "{name}" VALUES ({marks})'
            self._rows.append((f'DELETE FROM "{name}"', insert, rows))
        self.reader = self._connect(sqlite3.Connection)
        self.reader.execute("PRAGMA query_only = ON")

    def connect(self) -> sqlite3.Connection:
        """A connection of the application's own."""
        return sqlite3.connect(self._uri, uri=True)

    def _connect(self, kind: type[AnyConnection]) -> AnyConnection:
        connection = sqlite3.connect(self._uri, uri=True, factory=kind, check_same_thread=False)
        self._open.append(connection)
        return connection

    def take(self) -> Connection:
        """A connection for an engine."""
        if self.idle:
            connection = self.idle.pop()
        else:
            connection = self._connect(Connection)
            connection.path = "memory"
            connection.engine_execute("PRAGMA foreign_keys = ON")
        return connection

    def give_back(self, connection: Connection) -> None:
        """The engine has ended, in whatever state its connection is."""
        if connection.in_transaction:
            connection.rollback()
        if connection.engine_execute("SELECT 1 FROM sqlite_temp_schema").fetchone() is None:
            self.idle.append(connection)
        else:
            self._open.remove(connection)
            connection.close()

    def reset(self) -> bool:
        """Put all rows back; False if the tables themselves have changed."""
        if self._schema_version() != self._schema:
            return False
        execute = self._keeper.execute
        execute("PRAGMA foreign_keys = OFF")
        execute("BEGIN IMMEDIATE")
        for delete, insert, rows in self._rows:
            execute(delete)
            if rows:
                self._keeper.executemany(insert, rows)
        self._keeper.commit()
        return True

    def close(self) -> None:
        """Close all connections, but those of the application's own."""
        _close(self._open)

    def _schema_version(self) -> object:
        return self._keeper.execute("PRAGMA schema_version").fetchone()[0]


def _close(connections: list[sqlite3.Connection]) -> None:
    while connections:  # whoever is interrupted here leaves the others in the list
        connections[-1].close()
        connections.pop()


class _Maker(SqliteStore):
    """Makes perdure's tables, as any store does in a new file."""

    def __init__(self, database: _Database) -> None:
        super().__init__(":memory:")
        self._file = database._uri

    def _connect(self, max_parallelism: int | None, *, works: bool) -> Connection:
        connection = sqlite3.connect(self._file, uri=True, factory=Connection)
        try:
            connection.path = "memory"
            self._prepare(connection, max_parallelism)
        except BaseException:
            connection.close()
            raise
        return connection


class _Run:
    """What lasts for one run: the database, and who of its workers lives."""

    def __init__(self, owner: SqliteMemory) -> None:
        self._owner = owner
        self._setup: Setup | None = None
        self._database: _Database | None = None
        self._is_limited = False
        self.held: dict[str, PooledStore] = {}

    def prepare(self, setup: Setup) -> None:
        """Have the application's tables made, before the first process opens the store."""
        self._setup = setup

    def database(self) -> _Database:
        """The database; put back when it is first asked for."""
        if self._database is None:
            self._database = self._owner.database(self._setup)
        return self._database

    def limit(self, max_parallelism: int | None, connection: Connection) -> None:
        """What the first to open the store says of it is what holds."""
        if not self._is_limited and max_parallelism is not None:
            connection.begin()
            connection.engine_execute(
                "UPDATE perdure_config SET max_parallelism = ?", (max_parallelism,)
            )
            connection.commit()
        self._is_limited = True

    def lose_lease(self, worker_id: str) -> None:
        """The others take this worker for dead, though it lives."""
        self.held.pop(worker_id, None)

    def close(self) -> None:
        """The world has ended."""
        self._database = None


class PooledStore(SqliteStore):
    """A store whose connections are used again. Workers hold no lock files but places in a dict,
    so that one that lives can be taken for dead."""

    def __init__(self, run: _Run) -> None:
        super().__init__(":memory:")
        self.path = "memory"  # to its readers it is as a file: they need no engine
        self._run = run
        self._readers: _Readers | None = None

    def open(self, *, max_parallelism: int | None, works: bool = False) -> None:
        """See `base.Store.open`."""
        database = self._run.database()
        self._connection = connection = database.take()
        self._run.limit(max_parallelism, connection)
        self._transaction = _OpenTransaction(connection, self._check_version)
        self._readers = _Readers(database.reader)
        self._pool = self._readers  # type: ignore[assignment]  # all that a store does with it
        self._data_version = -1

    def close(self) -> None:
        """Give all back."""
        connection, self._connection, self._transaction = self._connection, None, None
        if self._readers is not None:
            self._readers.close()
            self._pool = self._readers = None
        if connection is not None:
            self._run.database().give_back(connection)
        held = self._run.held
        for worker_id in [name for name, store in held.items() if store is self]:
            del held[worker_id]

    def guest(self, connection: sqlite3.Connection, *, max_parallelism: int | None) -> Guest:
        """See `SqliteStore.guest`. The tables are there, and that they are in this database need
        not be checked: the connection is one of its own."""
        guest = Guest(connection, self.path, self._check_version)
        guest.begin()
        return guest

    def hold_worker(self, worker_id: str) -> None:
        """See `base.Store.hold_worker`."""
        self._run.held[worker_id] = self

    def release_worker(self, worker_id: str) -> None:
        """See `base.Store.release_worker`."""
        self._run.held.pop(worker_id, None)

    def dead_workers(self, worker_ids: Collection[str]) -> list[str]:
        """See `base.Store.dead_workers`."""
        return [worker_id for worker_id in worker_ids if worker_id not in self._run.held]


class _Readers:
    """The reads of one store, on the one connection that all of them share."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection: sqlite3.Connection | None = connection

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Run a statement that reads; all its rows."""
        if self._connection is None:
            raise NotOpen("memory: the store was closed meanwhile: read while the manager is open")
        try:
            return Rows(self._connection.execute(sql, parameters).fetchall())
        except (sqlite3.Error, MemoryError) as error:
            trouble = translate(error, "memory")
            if trouble is None:
                raise
            raise trouble from error

    @contextmanager
    def at_once(self) -> Iterator[Callable[..., Any]]:
        """For several reads of one moment: nobody else runs meanwhile."""
        yield self.execute

    def close(self) -> None:
        """No more reads."""
        self._connection = None

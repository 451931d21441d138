"""The SQLite store: one file, beside the application's own tables.

Files, connections, schema, liveness. WAL and ``synchronous=FULL`` by default, so that what was
committed survives a power loss. Several processes may share the file; a worker proves that it
lives by holding a lock on a file of its own, which the operating system drops with the process:
no clock decides, so a laptop's sleep or a stopped container declares nobody dead.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import sqlite3
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from perdure.core.ids import WorkerId
from perdure.errors import (
    NotOpen,
    StoreBusy,
    StoreError,
    StoreNotFound,
    StoreReadOnly,
    StoreUnsupported,
)

from .base import Access, Reader, StateWrite, StepWrite, Transaction, in_transaction
from .connection import Connection, is_commit_poisoned, translate
from .liveness import LockFiles
from .readers import ReaderPool, reading
from .sqlite_guest import Guest, open_guest
from .sqlite_moving import refuse_moved
from .sqlite_schema import SCHEMA, create_tables, upgrade_tables
from .sqlite_sql import SqliteReader, SqliteTransaction
from .versions import Schema

logger = logging.getLogger("perdure.store")

#: How long one try waits for another process's transaction, in seconds. Short, because an engine
#: that shares its thread with a loop stands still meanwhile; the engine tries again for as long as
#: it takes (see `runtime.engine.BUSY_SECONDS`).
BUSY_TIMEOUT = 1.0

#: How often `open` tries while somebody else holds the file: with `BUSY_TIMEOUT` about 30 seconds,
#: as long as a call to an open manager waits. Between two tries, for the sake of those that SQLite
#: gives up at once, it waits for OPEN_PAUSE seconds.
OPEN_TRIES = 28
OPEN_PAUSE = 0.1

#: Pages in the write-ahead log before it is copied into the file and begun anew. Fewer would copy
#: hot pages more often; more would take longer to copy.
LOG_PAGES = 2000

#: Bytes of a page with its header in the log, and of the log's own header (SQLite's file format).
_LOG_PAGE_BYTES = 4096 + 24
_LOG_HEADER_BYTES = 32

#: File systems on which WAL's shared memory does not work between machines (statfs f_type names).
_NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "fuse.sshfs", "glusterfs"}
)

#: What SQLite says where it may read the file, but not make its own two files beside it.
_CANNOT_MAKE_FILES = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)

_REMEDY_MISSING = "give the path of a database that a worker, or a start, has made"

_SYNCHRONOUS = {"disk": "FULL", "process": "NORMAL"}


class SqliteStore:
    """A store in an SQLite file, or in memory for tests and trials.

    Args:
        path: of the file, made if it is missing (its folder is not), or ``":memory:"``.
        durability: ``"disk"`` (survives a power loss) or ``"process"`` (survives a crash of the
            process; the last commits may be lost with the power).
        access: "create" (make what is missing), "write" (the database must be there) or "read"
            (it must be there, and nothing in it is changed).
        busy_timeout: seconds to wait for another process's transaction.
        pause: waits for some seconds between two tries of `open`.
        schema: the tables that this code knows.
    """

    shares_commits = True
    tells_all = True
    #: It cannot tell by itself: to look costs microseconds.
    poll_seconds = 0.02

    def __init__(
        self,
        path: str,
        *,
        durability: str = "disk",
        access: Access = "create",
        busy_timeout: float = BUSY_TIMEOUT,
        pause: Callable[[float], object] | None = None,
        schema: Schema = SCHEMA,
    ) -> None:
        if durability not in _SYNCHRONOUS:
            raise ValueError(f"durability={durability!r}: give 'disk' or 'process'")
        self.path = path
        self._file = path  # where it really lies: known when it is opened
        self._durability = durability
        self._access = access
        self._schema = schema
        self._check_version = functools.partial(schema.check, where=path)
        self._uri = ""
        self._busy_timeout = busy_timeout
        self._connection: Connection | None = None
        self._transaction: _OpenTransaction | None = None
        self._pause = threading.Event().wait if pause is None else pause
        self._pool: ReaderPool | None = None
        self._data_version = -1
        self._locks: LockFiles | None = None

    @property
    def is_memory(self) -> bool:
        """Whether it lives in this process's memory only."""
        return self.path == ":memory:"

    @property
    def reads_need_engine(self) -> bool:
        """A database in memory has one connection, which belongs to the engine."""
        return self.is_memory

    # --- opening and closing

    def open(self, *, max_parallelism: int | None, works: bool = False) -> None:
        """See `base.Store.open`. Tries for about 30 seconds while somebody else holds the file."""
        if not self.is_memory:
            # Once: two ways to one file must come to the same locks, also after a chdir.
            self._file = os.path.realpath(self.path)
            self._check_place()
            self._uri = self._make_uri()
        for _ in range(OPEN_TRIES - 1):
            try:
                connection = self._connect(max_parallelism, works=works)
                break
            except StoreBusy:
                # It has waited already, except where SQLite fears a deadlock and does not.
                self._pause(OPEN_PAUSE)
        else:
            connection = self._connect(max_parallelism, works=works)
        self._connection = connection
        self._transaction = _OpenTransaction(connection, self._check_version)
        if not self.is_memory:
            self._pool = ReaderPool(self._connect_reader, self._translate, self.path)
            self._locks = LockFiles(Path(f"{self._file}.workers"))

    def _connect(self, max_parallelism: int | None, *, works: bool) -> Connection:
        connection = None
        try:
            connection = sqlite3.connect(
                self._uri or self._file,
                uri=bool(self._uri),
                factory=Connection,
                timeout=self._busy_timeout,
                check_same_thread=False,  # opened by the caller, then used by the engine alone
            )
            connection.path = self.path  # as it was given, for messages
            self._prepare(connection, max_parallelism)
            if works and not self.is_memory:
                self._make_ready(connection)
        except BaseException as error:
            if connection is not None:
                connection.close()
            # What a transaction raised is translated already, but by the connection.
            cause = error.__cause__ if isinstance(error, StoreError) else error
            trouble = None if cause is None else self._translate(cause)
            if trouble is not None:
                raise trouble from cause
            raise
        return connection

    def _check_place(self) -> None:
        path = Path(self._file)
        if path.is_dir():
            raise StoreError(f"{self.path}: a folder; give the path of a file")
        if not path.parent.is_dir():
            raise StoreError(
                f"{self.path}: the folder {str(path.parent)!r} does not exist: make it"
            )
        _refuse_network(self._file, _read_mounts())
        if self._access != "create" and not path.exists():
            raise StoreNotFound(f"{self.path}: there is no such file: {_REMEDY_MISSING}")

    def _make_uri(self) -> str:
        """The file as SQLite's URI, which says how to open it.

        Raises:
            StoreReadOnly: it is only to be read, and not even that is possible.
        """
        if self._access == "create":
            return ""
        uri = Path(self._file).as_uri()
        if self._access == "write":
            return f"{uri}?mode=rw"
        uri += "?mode=ro"
        log = Path(f"{self._file}-wal")
        try:
            probe = sqlite3.connect(uri, uri=True, timeout=self._busy_timeout)
        except sqlite3.Error as error:
            raise self._translate(error) or error from error
        with contextlib.closing(probe):
            try:
                probe.execute("SELECT 1 FROM sqlite_master").fetchone()
            except sqlite3.DatabaseError as error:
                # SQLite wants to make its shared memory beside the file, and may not.
                if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _CANNOT_MAKE_FILES:
                    return uri  # whatever it is, it is told when it is opened
                if log.exists() and log.stat().st_size > 0:
                    raise StoreReadOnly(
                        f"{self.path}: {error}: its log {log.name!r} has commits that are not in"
                        " the file yet, and to read them SQLite must make a file beside it: copy"
                        " both to a folder that can be written to"
                    ) from error
                return f"{uri}&immutable=1"  # nobody can write here, so nobody need be heeded
        return uri

    def _prepare(self, connection: Connection, max_parallelism: int | None) -> None:
        execute = connection.engine_execute
        # First of all a read: a file that is something else is named before anything is changed.
        version = self._stored_version(connection)
        if version is None and self._access != "create":
            raise StoreNotFound(f"{self.path}: perdure has no tables in it: {_REMEDY_MISSING}")
        if self._access == "read":
            self._schema.check_readable(version, self.path)
            return
        is_older = self._schema.is_older(version) and self._access == "create"
        if version is not None and not is_older:
            self._check_version(version)
        mode = execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal" and not self.is_memory:
            raise StoreUnsupported(f"{self.path}: SQLite cannot use WAL here (it says {mode!r})")
        execute(f"PRAGMA synchronous = {_SYNCHRONOUS[self._durability]}")
        execute("PRAGMA foreign_keys = ON")
        execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        if version is None:
            self._create(connection, max_parallelism)
        elif is_older:
            self._upgrade(connection)

    def _stored_version(self, connection: Connection) -> object:
        """The version of perdure's tables; None if there are none.

        Raises:
            StoreError: what has names like ours is not ours, or has moved elsewhere.
        """
        execute = connection.engine_execute
        sql = r"SELECT lower(name) FROM sqlite_master WHERE name LIKE 'perdure\_%' ESCAPE '\'"
        names = {row[0] for row in execute(sql)}
        if not names:
            return None
        if "perdure_config" in names:
            try:
                row = execute("SELECT schema_version FROM perdure_config").fetchone()
            except sqlite3.OperationalError:
                pass  # another table by that name
            else:
                version = "unknown" if row is None else row[0]
                refuse_moved(execute, version, self.path)
                return version
        raise StoreError(
            f"{self.path}: it has a table or index named {min(names)}, but not perdure's tables:"
            " rename what begins with perdure_, or use a file of its own for perdure"
        )

    def _make_ready(self, connection: Connection) -> None:
        """Have the write lock once, so that a worker begins when it can be had."""
        connection.begin()
        try:
            if self._durability == "disk":
                self._grow_log()
        finally:
            connection.rollback()

    def _grow_log(self) -> None:
        """Give the write-ahead log its full size now, with zeros.

        A commit that makes a file longer has to store the new length too, which doubles the time
        of its sync (measured on ext4). SQLite never shortens the log while it is open, and stops
        reading it at the first frame whose checksum is wrong, so zeros behind the end are nothing.
        The write lock is held meanwhile: nobody appends where we write. A descriptor of our own
        does no harm: SQLite's locks are on the other two files.
        """
        size = _LOG_HEADER_BYTES + LOG_PAGES * _LOG_PAGE_BYTES
        # For speed only: where it cannot be done, the log grows with the commits.
        with contextlib.suppress(OSError):
            log = os.open(f"{self._file}-wal", os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
            try:
                end = os.fstat(log).st_size
                zeros = bytes(1 << 20)
                while end < size:
                    end += os.pwrite(log, zeros[: size - end], end)
                os.fsync(log)
            finally:
                os.close(log)

    def _create(self, connection: Connection, max_parallelism: int | None) -> None:
        with _committed(connection):
            found = connection.engine_execute(
                "SELECT 1 FROM sqlite_master WHERE name = 'perdure_config'"
            ).fetchone()
            if found is None:  # else another process was faster
                create_tables(connection.engine_execute, max_parallelism, self._schema)
        SqliteTransaction(connection, self._check_version).check_schema()

    def _upgrade(self, connection: Connection) -> None:
        with _committed(connection):
            version = upgrade_tables(connection.engine_execute, self._schema)
        SqliteTransaction(connection, self._check_version).check_schema()
        if version is not None:
            logger.warning(
                "%s: its schema was brought from version %d to %d: processes of an older perdure"
                " stop now",
                self.path,
                version,
                self._schema.version,
            )

    def close(self) -> None:
        """Close all connections. May be opened again."""
        # First the readers: the last connection to be closed copies the log into the file.
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()
        if self._connection is not None:
            self._connection.close()
            self._connection = self._transaction = None
        if self._locks is not None:
            self._locks.close()

    # --- transactions and reads

    def transaction(self) -> AbstractContextManager[Transaction]:
        """See `base.Store.transaction`."""
        if self._transaction is None:
            raise self._not_open()
        return self._transaction

    def write_alone(
        self, write: StateWrite, steps: Sequence[StepWrite], *, fence: WorkerId
    ) -> bool:
        """See `base.Store.write_alone`."""
        return in_transaction(self, write, steps, fence)

    def reader(self) -> Reader:
        """See `base.Store.reader`."""
        connection, pool = self._connection, self._pool  # another thread may close meanwhile
        if self.is_memory and connection is not None:
            return SqliteReader(reading(connection.engine_execute, self._translate))
        if pool is None:
            raise NotOpen(f"{self.path}: the store is not open: use `async with manager:`")
        return SqliteReader(pool.execute, pool.at_once)

    def _connect_reader(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._uri or self._file,
            uri=bool(self._uri),
            timeout=self._busy_timeout,
            check_same_thread=False,
        )
        connection.execute("PRAGMA query_only = ON")
        return connection

    def _translate(self, error: BaseException) -> StoreError | None:
        """As `connection.translate`; tells a folder that cannot be written to from one that is
        missing."""
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CANTOPEN:
            folder = os.path.dirname(self._file)
            if not os.access(folder, os.W_OK):
                return StoreReadOnly(
                    f"{self.path}: {error}: the folder {folder!r} cannot be written to: make it"
                    " writable, or use another one; SQLite keeps its log beside the database"
                )
        return translate(error, self.path)

    def _engine_connection(self) -> Connection:
        if self._connection is None:
            raise self._not_open()
        return self._connection

    def _not_open(self) -> StoreError:
        return StoreError(f"{self.path}: the store is not open")

    def guest(self, connection: sqlite3.Connection, *, max_parallelism: int | None) -> Guest:
        """The engine's side of a transaction that the user opened on this database; the store need
        not be open. See `guest.open_guest`, also for what it raises.

        Args:
            max_parallelism: initial value of the setting, if the tables are created.
        """
        create = functools.partial(
            create_tables, max_parallelism=max_parallelism, schema=self._schema
        )
        return open_guest(connection, self.path, self._check_version, create)

    # --- other processes

    def has_changed(self) -> bool:
        """See `base.Store.has_changed`. A pragma that reads shared memory: about 3 µs."""
        if self.is_memory:
            return False
        row = self._engine_connection().engine_execute("PRAGMA data_version").fetchone()
        if row[0] == self._data_version:
            return False
        self._data_version = row[0]
        return True

    def call_on_change(self, wake: Callable[[], None]) -> None:
        """See `base.Store.call_on_change`. It never does."""

    def hold_worker(self, worker_id: str) -> None:
        """See `base.Store.hold_worker`."""
        if self._locks is not None:
            self._locks.hold(worker_id)

    def release_worker(self, worker_id: str) -> None:
        """See `base.Store.release_worker`."""
        if self._locks is not None:
            self._locks.release(worker_id)

    def dead_workers(self, worker_ids: Collection[str]) -> list[str]:
        """See `base.Store.dead_workers`."""
        if self._locks is None:
            return list(worker_ids)  # in memory nobody else can be
        return [worker_id for worker_id in worker_ids if self._locks.is_dead(worker_id)]

    def is_poisoned(self, error: BaseException) -> bool:
        """See `base.Store.is_poisoned`."""
        return is_commit_poisoned(error)


class _OpenTransaction:
    """Begin, then commit or roll back. A class, and one object for all transactions of a
    connection, because whatever is made anew would cost each step more."""

    __slots__ = ("_connection", "_transaction")

    def __init__(self, connection: Connection, check_version: Callable[[object], None]) -> None:
        self._connection = connection
        self._transaction = SqliteTransaction(connection, check_version)

    def __enter__(self) -> Transaction:
        self._connection.begin()
        return self._transaction

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None:
            try:
                self._connection.commit()
            except BaseException as failure:
                self._undo(failure)
                raise
        else:
            self._undo(error)

    def _undo(self, error: BaseException) -> None:
        """Roll back; raise what the error means for the store, if it means something."""
        with contextlib.suppress(sqlite3.Error, StoreError):
            self._connection.rollback()
        trouble = self._connection.translate(error)
        if trouble is not None:
            raise trouble from error


@contextlib.contextmanager
def _committed(connection: Connection) -> Iterator[None]:
    """A transaction, committed at the end of the block, or rolled back if it raises."""
    connection.begin()
    try:
        yield
        connection.commit()
    except BaseException:
        with contextlib.suppress(sqlite3.Error, StoreError):
            connection.rollback()
        raise


def _refuse_network(path: str, mounts: str) -> None:
    """Raise `StoreUnsupported` if `path` is on a network file system.

    Args:
        path: of the database.
        mounts: what is mounted, as in /proc/self/mounts.
    """
    kind = _file_system(Path(path).parent, mounts)
    if kind in _NETWORK_FILE_SYSTEMS:
        raise StoreUnsupported(
            f"{path}: on a network file system ({kind}), where SQLite's WAL loses data:"
            " use a local disk, or PostgreSQL for several machines"
        )


def _read_mounts() -> str:
    """What is mounted, where the system tells (Linux)."""
    if not sys.platform.startswith("linux"):
        return ""
    try:
        return Path("/proc/self/mounts").read_text("utf-8", "replace")
    except OSError:
        return ""


def _file_system(folder: Path, mounts: str) -> str | None:
    """The type of the file system that `folder` is on; None if `mounts` does not say."""
    folder = folder.resolve()
    best, kind = -1, None
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        # Blanks and the like are octal escapes.
        point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[1])
        # Of two at one point the later one hides the earlier.
        if len(point) >= best and (folder == Path(point) or Path(point) in folder.parents):
            best, kind = len(point), fields[2]
    return kind

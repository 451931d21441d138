"""The SQLite connection that the engine and user code share, and the fence around user code.

One transaction carries the writes of many workflows, and mutations, queries and `on_complete` run
inside it on this very connection. So while user code runs nothing may end the transaction, change
the connection for those who come later, or turn trouble of the store into a failed step. How:

* Each call runs under a savepoint; what it leaves behind (cursors, factories) is taken back.
* ONE authorizer for the connection's life reads a flag: setting one per call would expire all
  prepared statements. It is asked only when a statement is *prepared*, and `sqlite3` caches
  statements by their text. So user statements are marked with a comment, which gives mutations,
  queries and the engine each a cache of their own: nobody can run again what another was allowed.
* The same holds for queries: ``PRAGMA query_only`` would expire all statements twice per query.
* The public `execute` and `cursor` are for user code alone and refuse to work outside of it, so
  that a kept ``ctx.db`` cannot open a transaction between two turns. The engine uses
  `engine_execute`, `begin`, `commit` and `rollback`.

What may be prepared is decided in fence.py. The fence is built against mistakes, not against
malice: ``sqlite3.Cursor(ctx.db)`` gets around it.
What does not belong here: the engine's own SQL, retries, and what becomes of a failed step.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, Self, TypeVar

from perdure.errors import (
    ConnectionMisuse,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreNotADatabase,
    StoreReadOnly,
)

from .base import TransactionLost, UserRaisedStoreError
from .fence import (
    ENGINE,
    MUTATION,
    QUERY,
    READ_ONLY,
    SAVEPOINT_NAME,
    WHY_NOT,
    Fence,
    is_reserved,
    why_reserved,
)

T = TypeVar("T")
Parameters = Sequence[Any] | Mapping[str, Any]


def translate(error: BaseException, path: str = "the database") -> StoreError | None:
    """The store error that stands for an error of SQLite's, or None if the SQL is to blame.

    SQLITE_LOCKED, "SQL statements in progress" and SQLITE_CORRUPT_VTAB are None: inside one
    transaction only the code that runs there can cause them, and retrying would never help.

    Args:
        error: any exception; SQLite's lack of memory arrives as a `MemoryError`.
        path: where the database lies, for the message.
    """
    if isinstance(error, MemoryError):
        return StoreError(f"{path}: SQLite ran out of memory; it is tried again")
    if not isinstance(error, sqlite3.Error):
        return None
    # Errors that the sqlite3 module raises by itself carry no code.
    code = getattr(error, "sqlite_errorcode", None)
    if code in (None, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CORRUPT_VTAB):
        return None
    if _is_blocked_by_statement(error):
        return None
    known = _STORE_ERRORS.get(code) or _STORE_ERRORS.get(code & 0xFF)
    if known is None:
        return None
    cls, remedy = known
    return cls(f"{path}: {error} ({error.sqlite_errorname}): {remedy}")


def is_commit_poisoned(error: BaseException) -> bool:
    """Whether `commit` failed for what some user code left behind, such as a deferred foreign key.

    The transaction is then still open; the caller rolls it back and runs the units one by one, to
    find the one to blame. SQLite offers no cheap way to see it earlier: releasing a savepoint does
    not check deferred foreign keys, and their count is not shown to Python.
    """
    return isinstance(error, sqlite3.IntegrityError) or _is_blocked_by_statement(error)


def _is_blocked_by_statement(error: BaseException) -> bool:
    """SQLITE_BUSY without any other connection: a statement was left half done."""
    code = getattr(error, "sqlite_errorcode", None)
    return code == sqlite3.SQLITE_BUSY and "SQL statements in progress" in str(error)


_STORE_ERRORS: dict[int, tuple[type[StoreError], str]] = {
    sqlite3.SQLITE_BUSY: (StoreBusy, "end the other's transaction, or raise busy_timeout"),
    sqlite3.SQLITE_BUSY_SNAPSHOT: (
        StoreBusy,
        "another has written since it first read: roll back, and begin anew with BEGIN IMMEDIATE",
    ),
    sqlite3.SQLITE_LOCKED: (StoreBusy, "do not use shared-cache mode"),
    sqlite3.SQLITE_FULL: (StoreFull, "free some space, or raise the quota or max_page_count"),
    sqlite3.SQLITE_READONLY: (StoreReadOnly, "make the file and its folder writable"),
    sqlite3.SQLITE_CORRUPT: (StoreCorrupt, "restore the file from a backup"),
    sqlite3.SQLITE_NOTADB: (StoreNotADatabase, "give the path of an SQLite file, or of none yet"),
    sqlite3.SQLITE_IOERR: (StoreError, "look after the disk and the file system"),
    sqlite3.SQLITE_NOMEM: (StoreError, "SQLite ran out of memory; it is tried again"),
    sqlite3.SQLITE_CANTOPEN: (StoreError, "check that its folder exists and is writable"),
    sqlite3.SQLITE_PERM: (StoreError, "check the permissions of the file and its folder"),
    sqlite3.SQLITE_PROTOCOL: (StoreError, "too many processes contend for the WAL lock"),
}


def _noting(name: str) -> Any:
    """A fetching method of `sqlite3.Cursor` that tells the connection of errors."""
    inherited = getattr(sqlite3.Cursor, name)

    @functools.wraps(inherited)
    def method(self: Cursor, /, *args: Any, **kwargs: Any) -> Any:
        try:
            return inherited(self, *args, **kwargs)
        except (sqlite3.Error, MemoryError) as error:
            self._owner._explain(error, None)
            raise

    return method


def new_cursor(connection: sqlite3.Connection) -> sqlite3.Cursor:
    """A cursor for a statement of the engine's; its rows are tuples.

    Not by `sqlite3.Cursor(connection)`: a connection keeps a weak reference to each of its cursors,
    and drops those that are dead only where its method `cursor` is called.
    """
    cursor = sqlite3.Connection.cursor(connection)
    cursor.row_factory = None
    return cursor


class Cursor(sqlite3.Cursor):
    """The cursor that user code gets: it marks statements, explains refusals, notes trouble.

    It notes store trouble where it arises, so that user code which swallows the error, or raises
    another, does not hide it, and an error of some other connection is never mistaken for ours.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._owner = connection
        connection._keep(self)

    def execute(self, sql: str, parameters: Any = (), /) -> Self:
        """As in `sqlite3`; raises `ConnectionMisuse` for what would harm the transaction."""
        marked = self._owner._mark(sql)
        try:
            return super().execute(marked, parameters)
        except (sqlite3.Error, MemoryError) as error:
            self._owner._explain(error, sql)
            raise

    def executemany(self, sql: str, rows: Iterable[Any], /) -> Self:
        """As in `sqlite3`; raises `ConnectionMisuse` for what would harm the transaction."""
        marked = self._owner._mark(sql)
        try:
            return super().executemany(marked, rows)
        except (sqlite3.Error, MemoryError) as error:
            self._owner._explain(error, sql)
            raise

    def executescript(self, _script: str, /) -> NoReturn:
        """Refused: it would commit first."""
        raise _refusal("executescript()", "it commits first; call execute() for each statement")

    def __next__(self) -> Any:
        try:
            return super().__next__()
        except (sqlite3.Error, MemoryError) as error:
            self._owner._explain(error, None)
            raise

    fetchone = _noting("fetchone")
    fetchmany = _noting("fetchmany")
    fetchall = _noting("fetchall")


def _refusal(what: str, why: str = WHY_NOT) -> ConnectionMisuse:
    return ConnectionMisuse(f"ctx.db: {what} inside a step: {why}")


class Connection(sqlite3.Connection):
    """A connection for ``sqlite3.connect(path, factory=Connection)``, in legacy transaction mode.

    Legacy mode because there a statement that writes after the transaction vanished tries an
    implicit BEGIN, which the authorizer refuses; in the other modes it is committed, alone.

    Keep `check_same_thread` on: user code that hands ``ctx.db`` to another thread then gets
    sqlite3's own error.

    Raises:
        ValueError: ``isolation_level=None`` or an `autocommit` that is not legacy was given.
    """

    def __init__(self, database: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(database, *args, **kwargs)
        legacy = super().isolation_level is not None
        if sys.version_info >= (3, 12):
            legacy = legacy and super().autocommit == sqlite3.LEGACY_TRANSACTION_CONTROL
        if not legacy:
            super().close()
            raise ValueError("Connection needs sqlite3's legacy transaction mode: give neither")
        #: Where the database lies, as it was given.
        self.path: str = os.fsdecode(database)
        self._fence = Fence()
        self._control = sqlite3.Cursor(self)
        self._writing = sqlite3.Cursor(self)
        super().set_authorizer(self._fence.authorize)

    # --- The engine's side -----------------------------------------------------------------

    def engine_execute(self, sql: str, parameters: Parameters = (), /) -> sqlite3.Cursor:
        """Run a statement of the engine's. Rows are tuples, whatever `row_factory` says.

        Never end a transaction with it: use `commit` and `rollback`. Raises a `StoreError` for
        trouble of the database's, and `sqlite3.Error` for a fault of our own.
        """
        try:
            return new_cursor(self).execute(sql, parameters)
        except (sqlite3.Error, MemoryError) as error:
            self._raise_store_error(error)
            raise

    def engine_write(self, sql: str, rows: Sequence[Parameters], /) -> int:
        """Run a statement that writes, of the engine's, once for each of `rows`; how many rows of
        the table it changed in all. Raises as `engine_execute` does."""
        try:
            if len(rows) == 1:
                return self._writing.execute(sql, rows[0]).rowcount
            return self._writing.executemany(sql, rows).rowcount
        except (sqlite3.Error, MemoryError) as error:
            self._raise_store_error(error)
            raise

    def close(self) -> None:
        """Close it; refused inside a step."""
        if self._fence.mode:
            raise _refusal("close()", "the connection is the engine's")
        # On Python 3.11 a cursor that ran `executemany` keeps its statement past the connection's
        # close: the file would stay open, and the log would not be copied into it.
        sqlite3.Cursor.close(self._writing)
        super().close()

    def translate(self, error: BaseException) -> StoreError | None:
        """As the function `translate`, with this database's path in the message."""
        return translate(error, self.path)

    def begin(self) -> None:
        """BEGIN IMMEDIATE: take the write lock.

        Raises:
            StoreBusy: somebody else held it for longer than the connection's timeout.
            StoreError: another trouble of the database's.
        """
        if self._fence.mode:
            raise _refusal("begin()")
        self._fence.trouble = self._fence.lost = None
        try:
            self._control.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            self._raise_store_error(error)
            raise

    def commit(self) -> None:
        """Commit the engine's transaction; refused inside a step.

        Raises:
            ConnectionMisuse: called by user code.
            TransactionLost: there is no transaction (any more): nothing was committed.
            StoreError: trouble; whether it was committed is known only after a fresh look.
            sqlite3.Error: what `is_commit_poisoned` is for; the transaction is still open.
        """
        fence = self._fence
        if fence.mode:
            raise _refusal("commit()")
        if fence.trouble is not None:
            raise fence.trouble
        # sqlite3 would say nothing: the engine would believe that it had committed.
        if not self.in_transaction:
            raise TransactionLost(fence.lost)
        try:
            super().commit()
        except sqlite3.Error as error:
            self._raise_store_error(error)
            raise

    def rollback(self) -> None:
        """Roll back the engine's transaction, if there is one; refused inside a step."""
        if self._fence.mode:
            raise _refusal("rollback()", f"{WHY_NOT}; raise an exception to undo the step")
        try:
            super().rollback()
        except sqlite3.Error as error:
            self._raise_store_error(error)
            raise

    def run_user_code(self, fn: Callable[[], T], *, read_only: bool) -> T:
        """Run `fn` behind the fence, under a savepoint inside the open transaction.

        If `fn` raises, its writes are undone and the exception is passed on as it is, but for a
        `StoreError`: raised here, it shall mean that this very database is in trouble. Cursors and
        blobs that `fn` opened are closed, functions that it added removed, the factories put back.
        May be nested, within `run_engine_code`. After a `StoreError` or `TransactionLost` the
        caller must roll back.

        Args:
            fn: the user's code; whatever it returns is returned.
            read_only: refuse writes, for a query.

        Raises:
            StoreError: the database was in trouble meanwhile, whatever `fn` made of it.
            TransactionLost: the transaction is gone, or cannot be committed.
            UserRaisedStoreError: `fn` raised a `StoreError` of its own making (from another store
                for instance), which is a failure like any other.
            ConnectionMisuse: `read_only`, and something was written all the same (and undone).
        """
        fence = self._fence
        if fence.mode:
            raise _refusal("run_user_code()")
        assert self.in_transaction, "user code runs inside the engine's transaction"
        kept, added = fence.kept, fence.added
        row_factory, text_factory = self.row_factory, self.text_factory
        changes = self.total_changes
        self._control_run(f"SAVEPOINT {SAVEPOINT_NAME}")
        fence.kept, fence.added = set(), []
        fence.mode = QUERY if read_only else MUTATION
        try:
            try:
                result = fn()
            finally:
                fence.mode = ENGINE
                self.row_factory, self.text_factory = row_factory, text_factory
                if fence.kept:
                    _close_all(fence.kept)
                if fence.added:
                    self._remove_added()
                fence.kept, fence.added = kept, added
            if read_only and self.total_changes != changes:
                raise ConnectionMisuse(READ_ONLY)
        except BaseException as error:
            self._settle(undo=True, cause=error)
            if isinstance(error, StoreError):
                raise UserRaisedStoreError(error) from error
            raise
        self._settle(undo=False, cause=None)
        return result

    def run_engine_code(self, fn: Callable[[], T]) -> T:
        """Run engine code that user code called (a verb of `ctx`), with the fence lifted.

        Statements go through `engine_execute`; text arrives as `str`, whatever the user set. Store
        trouble in `fn` is kept, so that the user code around it cannot swallow it.
        """
        fence = self._fence
        mode, text_factory = fence.mode, self.text_factory
        fence.mode = ENGINE
        self.text_factory = str
        try:
            return fn()
        except (sqlite3.Error, StoreError) as error:
            trouble = error if isinstance(error, StoreError) else self.translate(error)
            fence.trouble = fence.trouble or trouble
            raise
        finally:
            fence.mode = mode
            self.text_factory = text_factory

    def _settle(self, *, undo: bool, cause: BaseException | None) -> None:
        """Keep or undo what user code did since the savepoint, if that can still be done."""
        if self._fence.trouble is not None:
            raise self._fence.trouble from cause
        if not self.in_transaction:
            raise TransactionLost(self._fence.lost) from cause
        try:
            if undo:
                self._control_run(f"ROLLBACK TO {SAVEPOINT_NAME}")
            self._control_run(f"RELEASE {SAVEPOINT_NAME}")
        except sqlite3.Error as error:
            # Our savepoint is gone, or a statement out of our sight is left half done.
            raise TransactionLost(self._fence.lost) from error

    def _control_run(self, sql: str) -> None:
        try:
            self._control.execute(sql)
        except sqlite3.Error as error:
            self._raise_store_error(error)
            raise

    def _raise_store_error(self, error: sqlite3.Error | MemoryError) -> None:
        trouble = self.translate(error)
        if trouble is not None:
            raise trouble from error

    # --- For our cursors -------------------------------------------------------------------

    def _keep(self, thing: Any) -> None:
        kept = self._fence.kept
        kept.add(weakref.ref(thing, kept.discard))

    def _mark(self, sql: str) -> str:
        """The text under which a user's statement is run, if one may be run now."""
        fence = self._fence
        if not fence.mode:
            raise ConnectionMisuse(_USED_OUTSIDE)
        if not self.in_transaction:
            # DDL and WITH … INSERT begin no transaction: they would be committed at once, alone.
            raise ConnectionMisuse(f"ctx.db: {TransactionLost(fence.lost)}")
        fence.denied = None
        return fence.mode + sql

    def _explain(self, error: sqlite3.Error | MemoryError, sql: str | None) -> None:
        """Note what `error` means for the transaction; raise a clearer one for a refusal."""
        fence = self._fence
        if fence.lost is None and not self.in_transaction:
            fence.lost = sql
        if fence.denied is not None:
            why, fence.denied = fence.denied, None
            raise ConnectionMisuse(f"ctx.db: {why}") from error
        if fence.trouble is None:
            fence.trouble = self.translate(error)

    # --- What user code sees ---------------------------------------------------------------

    def cursor(self, factory: Any = Cursor) -> Any:
        """A cursor for user code; `factory` must make a `Cursor` of ours."""
        if not self._fence.mode:
            raise ConnectionMisuse(_USED_OUTSIDE)
        if not (isinstance(factory, type) and issubclass(factory, Cursor)):
            raise _refusal("cursor(factory=…)", "set row_factory on the cursor instead")
        return super().cursor(factory)

    # sqlite3's own go past `cursor`.
    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        """As in `sqlite3`, for user code: see `cursor`, and `Cursor.execute`."""
        return self.cursor().execute(sql, parameters)

    def executemany(self, sql: str, rows: Iterable[Any], /) -> Any:
        """As in `sqlite3`, for user code: see `cursor`, and `Cursor.executemany`."""
        return self.cursor().executemany(sql, rows)

    def blobopen(self, table: str, /, *args: Any, **kwargs: Any) -> sqlite3.Blob:
        """As in `sqlite3`, for user code; the blob is closed when the step ends."""
        self._mark("")
        is_writing = not kwargs.get("readonly", False)
        if is_writing and is_reserved(table):  # SQLite asks no authorizer about blobs
            raise ConnectionMisuse(f"ctx.db: {why_reserved(table)}")
        if is_writing and self._fence.mode == QUERY:
            raise _refusal("blobopen()", "give readonly=True in a query")
        blob = super().blobopen(table, *args, **kwargs)
        self._keep(blob)
        return blob

    def _add_function(self, name: str, narg: int) -> None:
        # It removes functions of any kind; given None, `create_function` of Python 3.11 does not.
        remove = functools.partial(super().create_window_function, name, narg, None)
        self._add("function", name, remove)

    def _add(self, kind: str, name: str, remove: Callable[[], None]) -> None:
        """Note that user code adds a function or a collation, for the time of its call.

        Raises:
            ConnectionMisuse: there is one of the name, of SQLite's or of an outer call.
        """
        self._mark("")
        fence, key = self._fence, (kind, name.lower())
        if key in fence.defined:
            if all(key != known for known, _ in fence.added):
                raise _refusal(f"a {kind} named {name}", "there is one already")
        elif key not in fence.removed:  # SQLite lists those as well
            sql = f"SELECT 1 FROM pragma_{kind}_list WHERE name = ? COLLATE NOCASE"
            if sqlite3.Cursor(self).execute(sql, (name,)).fetchone() is not None:
                raise _refusal(f"a {kind} named {name}", "SQLite has one: choose another name")
        fence.defined.add(key)
        fence.added.append((key, remove))

    def _remove_added(self) -> None:
        fence = self._fence
        for key, remove in fence.added:
            # Refused while a statement out of our sight is half done: RELEASE finds that as well.
            with contextlib.suppress(sqlite3.Error):
                remove()
            fence.defined.discard(key)
            fence.removed.add(key)

    def create_function(self, name: str, narg: int, func: Any, **options: Any) -> None:
        """As in `sqlite3`, for user code; it is gone when the step ends."""
        self._add_function(name, narg)
        super().create_function(name, narg, func, **options)

    def create_aggregate(self, name: str, n_arg: int, aggregate_class: Any) -> None:
        """As in `sqlite3`, for user code; it is gone when the step ends."""
        self._add_function(name, n_arg)
        super().create_aggregate(name, n_arg, aggregate_class)

    def create_window_function(self, name: str, num_params: int, aggregate_class: Any, /) -> None:
        """As in `sqlite3`, for user code; it is gone when the step ends."""
        self._add_function(name, num_params)
        super().create_window_function(name, num_params, aggregate_class)

    def create_collation(self, name: str, callback: Any, /) -> None:
        """As in `sqlite3`, for user code; it is gone when the step ends."""
        self._add("collation", name, functools.partial(super().create_collation, name, None))
        super().create_collation(name, callback)

    def executescript(self, _script: str, /) -> NoReturn:
        """Refused: it would commit first."""
        raise _refusal("executescript()", "it commits first; call execute() for each statement")

    def __enter__(self) -> Self:
        if self._fence.mode:
            raise _refusal("`with ctx.db:`")
        return super().__enter__()

    # The base's setter commits when it is given None, without calling `commit`.
    @property
    def isolation_level(self) -> Any:
        """As in `sqlite3`; cannot be set."""
        return super().isolation_level

    @isolation_level.setter
    def isolation_level(self, _value: Any) -> None:
        raise _refusal("setting isolation_level")

    if sys.version_info >= (3, 12):

        @property
        def autocommit(self) -> Any:
            """As in `sqlite3`; cannot be set."""
            return super().autocommit

        @autocommit.setter
        def autocommit(self, _value: Any) -> None:
            raise _refusal("setting autocommit")


_USED_OUTSIDE = (
    "ctx.db was used outside of the step that it was given to: read all rows before the step"
    " returns (a list, not a generator), and keep neither the connection nor its cursors"
)


def _close_all(kept: set[weakref.ref[Any]]) -> None:
    """Close cursors and blobs: a half-done statement blocks RELEASE and COMMIT for everyone."""
    for reference in tuple(kept):
        thing = reference()
        if isinstance(thing, sqlite3.Cursor):
            sqlite3.Cursor.close(thing)
        elif thing is not None:
            thing.close()


def _engine_only(name: str, why: str) -> Callable[..., Any]:
    """The method of `sqlite3.Connection`, refused while user code runs."""
    inherited = getattr(sqlite3.Connection, name)

    @functools.wraps(inherited)
    def method(self: Connection, /, *args: Any, **kwargs: Any) -> Any:
        if self._fence.mode:
            raise _refusal(f"{name}()", why)
        return inherited(self, *args, **kwargs)

    return method


_SETTER = "it would change the engine's connection"
_ENGINE_ONLY = {
    "backup": "copy the database from outside of a step",
    "deserialize": _SETTER,
    "enable_load_extension": _SETTER,
    "interrupt": "it may roll the shared transaction back",
    "load_extension": _SETTER,
    "set_authorizer": _SETTER,
    "set_progress_handler": _SETTER,
    "set_trace_callback": _SETTER,
    "setconfig": _SETTER,
    "setlimit": _SETTER,
}
# Not every Python has every one of them (`setconfig`, extension loading, `deserialize`).
for _name, _why in _ENGINE_ONLY.items():
    if hasattr(sqlite3.Connection, _name):
        setattr(Connection, _name, _engine_only(_name, _why))

"""A user's own transaction on an SQLite file: see `guest`.

What does not belong here: what is the same on PostgreSQL. Other processes notice the commit as they
notice any.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from perdure.errors import ConnectionMisuse, StoreError

from .base import TransactionLost
from .connection import Connection, Parameters, new_cursor, translate
from .guest import VERB, UserTransaction, ended, engines_own
from .sqlite_sql import SqliteTransaction

T = TypeVar("T")

#: Makes the tables, by the function to execute SQL that it gets.
Create = Callable[[Callable[..., Any]], None]


class Guest(UserTransaction, SqliteTransaction):
    """The engine's side of the user's transaction."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: str,
        check_version: Callable[[object], None],
    ) -> None:
        self._guest = connection
        self._path = path
        self._check_version = check_version
        self._execute = self._run
        self._write = self._run_many

    def _run(self, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        return new_cursor(self._guest).execute(sql, parameters)

    def _run_many(self, sql: str, rows: Sequence[Parameters]) -> int:
        return new_cursor(self._guest).executemany(sql, rows).rowcount

    @property
    def _where(self) -> str:
        return self._path

    @property
    def db(self) -> Any:
        """The user's own connection."""
        return self._guest

    def begin(self) -> None:
        """Open the transaction, if none is open, and sqlite3 would do so at the first write.

        Raises:
            ConnectionMisuse: none is open, and it would not.
        """
        if self._guest.in_transaction:
            return
        if not _is_legacy(self._guest):
            raise ConnectionMisuse(
                "over(connection): no transaction is open: execute BEGIN IMMEDIATE first, and"
                " COMMIT at the end"
            )
        self._run("BEGIN IMMEDIATE")

    def check_open(self) -> None:
        """Raise if the user's transaction has ended.

        Raises:
            ConnectionMisuse
        """
        try:
            is_open = self.is_open
        except sqlite3.ProgrammingError as error:
            raise _misuse(self._guest, error) from error
        if not is_open:
            raise ended()

    @property
    def is_open(self) -> bool:
        """See `guest.UserTransaction`."""
        return self._guest.in_transaction

    def run_engine_code(self, fn: Callable[[], T]) -> T:
        """Run a verb of the context: all of it is done, or, if it raises, nothing.

        Raises:
            StoreError: the database is in trouble.
            ConnectionMisuse: SQLite refuses, for what the user has done to the connection.
        """
        self.check_open()
        try:
            with self.reading_text(), self.savepoint(VERB):
                return fn()
        except sqlite3.Error as error:  # no code of the user's: that is answered for where it runs
            raise _misuse(self._guest, error) from error

    @contextlib.contextmanager
    def reading_text(self) -> Iterator[None]:
        """Texts are `str` in this block, whatever the user has them made of."""
        text_factory = self._guest.text_factory
        self._guest.text_factory = str
        try:
            yield
        finally:
            self._guest.text_factory = text_factory

    @contextlib.contextmanager
    def savepoint(self, name: str) -> Iterator[None]:
        """See `guest.UserTransaction`."""
        try:
            self._run(f"SAVEPOINT {name}")
            yield
            self.check_open()
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                self._run(f"ROLLBACK TO {name}")
                self._run(f"RELEASE {name}")
            _raise_trouble(error, self._path)
            raise
        try:
            self._run(f"RELEASE {name}")
        except sqlite3.Error as error:
            raise translate(error, self._path) or TransactionLost(None) from error


def open_guest(
    connection: sqlite3.Connection,
    path: str,
    check_version: Callable[[object], None],
    create: Create,
) -> Guest:
    """The engine's side of a transaction that is open on `connection`.

    If none is open, and sqlite3 would open one at the first write (its legacy mode, the default),
    it is opened here: the verbs read first, and what they read must be true when they write.

    Args:
        path: of the database that it must be a connection to.
        create: makes the tables where there are none, by the function to execute SQL that it gets.

    Raises:
        TypeError: it is no sqlite3 connection.
        ConnectionMisuse: it is the engine's, or another database's, or no transaction is open.
        StoreError: the database is in trouble, or is not ours to use.
    """
    if not isinstance(connection, sqlite3.Connection):
        raise TypeError(f"over({connection!r}): give an sqlite3.Connection")
    if isinstance(connection, Connection):
        raise engines_own()
    guest = Guest(connection, path, check_version)
    try:
        with guest.reading_text():
            _check_file(guest, path)
            guest.begin()
            _check_tables(guest, path, create)
    except sqlite3.Error as error:
        _raise_trouble(error, path)
        raise _misuse(connection, error) from error
    return guest


def _raise_trouble(error: BaseException, path: str) -> None:
    """Raise the store error that an error stands for, if it does."""
    if (trouble := translate(error, path)) is None:
        return
    try:
        raise trouble from error
    finally:
        # Else it would hold its own traceback, and with that the user's cursors: SQLite keeps the
        # lock of a connection that is closed before them.
        del trouble


def _misuse(connection: sqlite3.Connection, error: sqlite3.Error) -> ConnectionMisuse:
    """What a user has done for sqlite3 to refuse what the engine asks of his connection."""
    if not isinstance(error, sqlite3.ProgrammingError):
        return ConnectionMisuse(
            f"over(connection): SQLite refuses a statement of perdure's: {error}: take your"
            " authorizer off meanwhile, and leave tables that begin with perdure_ as they are"
        )
    try:
        _ = connection.total_changes
    except sqlite3.ProgrammingError:
        return ConnectionMisuse(
            "over(connection): the connection is closed: keep it open until you have committed"
        )
    return ConnectionMisuse(
        f"over(connection): it cannot be used here: {error} Use it, and the context, in the thread"
        " that opened it"
    )


def _check_tables(guest: Guest, path: str, create: Create) -> None:
    names = [row[0] for row in guest._run(_OUR_NAMES)]
    if "perdure_config" in names:
        guest.check_schema()
    elif not names:
        with guest.savepoint(VERB):
            create(guest._run)
    else:
        raise StoreError(
            f"{path}: it has a table or index named {min(names)}, but not perdure's tables:"
            " rename what begins with perdure_, or use a file of its own for perdure"
        )


_OUR_NAMES = r"SELECT lower(name) FROM sqlite_master WHERE name LIKE 'perdure\_%' ESCAPE '\'"


def _is_legacy(connection: sqlite3.Connection) -> bool:
    """Whether sqlite3 opens a transaction by itself, and `connection.commit()` ends it."""
    # From Python 3.12 on, -1 is sqlite3.LEGACY_TRANSACTION_CONTROL.
    return connection.isolation_level is not None and getattr(connection, "autocommit", -1) == -1


def _check_file(guest: Guest, path: str) -> None:
    if path == ":memory:":
        raise ConnectionMisuse(
            "over(connection): the manager's store is in memory, where nobody else can connect to:"
            " use a file"
        )
    found = next((row[2] for row in guest._run("PRAGMA database_list") if row[1] == "main"), "")
    if not found or os.path.realpath(found) != os.path.realpath(path):
        where = found or "a database in memory"
        raise ConnectionMisuse(
            f"over(connection): it is a connection to {where}, and the manager's store is {path}:"
            " open it on the same file"
        )

"""The connections that read an SQLite file: a few, shared by all threads that ask.

SQLite crashes the process if a connection is closed while another thread executes on it. So a
connection belongs to whoever took it until it is given back, and only then may be closed. And a
thread that has ended leaves nothing open, which one connection for each thread would.

What does not belong here: the statements (sqlite_sql.py), and where the file lies (sqlite.py).
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from perdure.errors import NotOpen, StoreError

#: Connections kept while nobody reads; each holds two file descriptors and a cache of pages.
IDLE_MAX = 4

Translate = Callable[[BaseException], StoreError | None]


class Rows:
    """All rows of a read: fetched at once, so that no trouble comes up later."""

    __slots__ = ("_rows",)

    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def fetchone(self) -> Any:
        return self._rows[0] if self._rows else None

    def fetchall(self) -> list[Any]:
        return self._rows


def reading(run: Callable[..., sqlite3.Cursor], translate: Translate) -> Callable[..., Any]:
    """`run` for a reader: outside of a transaction nobody else translates its errors."""

    def execute(sql: str, parameters: Sequence[Any] = ()) -> Any:
        try:
            return Rows(run(sql, parameters).fetchall())
        except (sqlite3.Error, MemoryError) as error:
            trouble = translate(error)
            if trouble is None:
                raise
            raise trouble from error

    return execute


class ReaderPool:
    """Executes reads, each on a connection that nobody else uses meanwhile.

    Args:
        connect: makes a connection (which any thread may use).
        translate: the store error that stands for an error of SQLite's, if one does.
        path: of the database, for messages.
    """

    def __init__(
        self, connect: Callable[[], sqlite3.Connection], translate: Translate, path: str
    ) -> None:
        self._connect = connect
        self._translate = translate
        self._path = path
        self._idle: list[sqlite3.Connection] = []
        self._taken = 0
        self._is_closed = False
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Run a statement that reads; all its rows.

        Raises:
            NotOpen: the pool was closed.
            StoreError: the database is in trouble.
        """
        connection = self._take()
        try:
            if connection is None:
                connection = self._connect()
            return Rows(connection.execute(sql, parameters).fetchall())
        except (sqlite3.Error, MemoryError) as error:
            trouble = self._translate(error)
            if trouble is not None:
                raise trouble from error
            raise
        finally:
            self._give_back(connection)

    @contextmanager
    def at_once(self) -> Iterator[Callable[..., Any]]:
        """An `execute` whose reads all see the database as it was at the first of them."""
        connection = self._take()
        try:
            try:
                if connection is None:
                    connection = self._connect()
                connection.execute("BEGIN")
            except (sqlite3.Error, MemoryError) as error:
                trouble = self._translate(error)
                if trouble is not None:
                    raise trouble from error
                raise
            try:
                yield reading(connection.execute, self._translate)
            finally:
                connection.rollback()
        finally:
            self._give_back(connection)

    def close(self) -> None:
        """Close all connections, once the reads under way have ended. No more reads after it."""
        if os.getpid() != self._process:
            return  # in a forked child the connections, and the reads under way, are the parent's
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            # Not closed by the last of them alone: the caller may take the files away after this.
            while self._taken:
                self._ended.wait()
        for connection in idle:
            connection.close()

    def _take(self) -> sqlite3.Connection | None:
        """A place, and a connection if there is one to spare: the one used last, its cache is
        warm."""
        with self._lock:
            if self._is_closed:
                raise NotOpen(
                    f"{self._path}: the store was closed meanwhile: read while the manager is open"
                )
            self._taken += 1
            return self._idle.pop() if self._idle else None

    def _give_back(self, connection: sqlite3.Connection | None) -> None:
        with self._lock:
            is_spare = connection is not None and not self._is_closed
            if is_spare and len(self._idle) < IDLE_MAX:
                self._idle.append(connection)  # type: ignore[arg-type]
                connection = None
            if connection is None:
                self._end_one()
                return
        try:
            connection.close()
        finally:
            with self._lock:
                self._end_one()

    def _end_one(self) -> None:
        self._taken -= 1
        if self._is_closed:
            self._ended.notify_all()

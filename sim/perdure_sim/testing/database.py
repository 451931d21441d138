"""`sim.db`: the application's tables as a reader finds them, for looking at only."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import Any


class Found(sqlite3.Cursor):
    """All rows at once: a cursor that is left half read would keep writers out."""

    _rows: Iterator[Any] = iter(())

    def execute(self, sql: str, parameters: Any = (), /) -> Found:
        """Run a statement that reads."""
        super().execute(sql, parameters)
        self._rows = iter(super().fetchall() if self.description is not None else ())
        return self

    def fetchone(self) -> Any:
        """The next row, or None."""
        return next(self._rows, None)

    def fetchmany(self, size: int | None = 1) -> list[Any]:
        """The next rows."""
        return [row for row, _ in zip(self._rows, range(size or 1), strict=False)]

    def fetchall(self) -> list[Any]:
        """All rows that are left."""
        return list(self._rows)

    def __iter__(self) -> Found:
        return self

    def __next__(self) -> Any:
        return next(self._rows)


class Database(sqlite3.Connection):
    """A connection that only reads, and finds at each statement what is committed by then."""

    refresh: Callable[[], None] | None = None

    def execute(self, sql: str, parameters: Any = (), /) -> Found:
        """Run a statement that reads what is committed now."""
        found: Found = self.cursor().execute(sql, parameters)
        return found

    def cursor(self, factory: Any = Found) -> Any:
        """A cursor, of what is committed now."""
        if self.refresh is not None:
            self.refresh()
        return super().cursor(factory)

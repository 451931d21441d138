"""The user's own tables beside the store in memory: SQLite's, because users write SQL."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable

from perdure.errors import StoreError
from perdure.store.connection import Connection


def image_of(make_tables: Callable[[sqlite3.Connection], object]) -> bytes:
    """A database with the tables and rows that a function makes. As bytes: they need no owner who
    closes them, and nobody can write to them."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        make_tables(connection)
        connection.commit()
        return _image(connection)


def _image(connection: sqlite3.Connection) -> bytes:
    """All that was committed. Without any table SQLite has no bytes to give."""
    (pages,) = sqlite3.Cursor(connection).execute("PRAGMA page_count").fetchone()
    return connection.serialize() if pages else b""


class UserTables:
    """The user's own tables: a private SQLite database in memory, made when it is first needed.

    Its transaction begins when user code first runs in one of the engine's, and ends with that.

    Args:
        template: what the new database begins with, as `image_of` gives it.
    """

    def __init__(self, template: bytes) -> None:
        self._template = template
        self._connection: Connection | None = None
        self._changes = 0
        self.is_begun = False

    @property
    def connection(self) -> Connection:
        """The one connection: made at the first time."""
        if self._connection is None:
            connection = sqlite3.connect(":memory:", factory=Connection)
            if self._template:
                connection.deserialize(self._template)
            connection.engine_execute("PRAGMA foreign_keys = ON")  # as in `SqliteStore`
            self._connection = connection
        return self._connection

    def begin(self) -> Connection:
        """The connection, inside its transaction."""
        connection = self.connection
        if not self.is_begun:
            assert not connection.in_transaction, "commit what you wrote to `user_tables`"
            connection.begin()
            self._changes, self.is_begun = connection.total_changes, True
        return connection

    def commit(self) -> bool:
        """End the transaction; whether rows were written. If it raises, it is still open."""
        connection = self.connection
        connection.commit()
        self.is_begun = False
        return connection.total_changes != self._changes

    def rollback(self) -> None:
        """Undo the transaction, if there is one."""
        if self.is_begun:
            with contextlib.suppress(sqlite3.Error, StoreError):
                self.connection.rollback()
            self.is_begun = False

    def image(self) -> bytes:
        """All that was committed, for `restore`."""
        return _image(self.connection)

    def restore(self, image: bytes) -> None:
        """Make the tables what they were at an `image`; empty: what they begin with."""
        if image:
            self.connection.deserialize(image)
        else:
            self.close()

    def close(self) -> None:
        """Forget the tables."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

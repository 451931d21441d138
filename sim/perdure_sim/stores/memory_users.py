"""The user's own tables beside the store in memory: SQLite's, because users write SQL."""

from __future__ import annotations

import contextlib
import sqlite3

from perdure.errors import StoreError
from perdure.store.connection import Connection


class UserTables:
    """The user's own tables: a private SQLite database in memory, made when it is first needed.

    Its transaction begins when user code first runs in one of the engine's, and ends with that.

    Args:
        template: copied into the new database, at the time at which it is made.
    """

    def __init__(self, template: sqlite3.Connection | None) -> None:
        self._template = template
        self._connection: Connection | None = None
        self._changes = 0
        self.is_begun = False

    @property
    def connection(self) -> Connection:
        """The one connection: made at the first time."""
        if self._connection is None:
            connection = sqlite3.connect(":memory:", factory=Connection)
            if self._template is not None:
                self._template.backup(connection)
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

    def restore(self, copy: sqlite3.Connection | None) -> None:
        """Make the tables what they were in `copy`; None: what they begin with."""
        if copy is None:
            self.close()
        else:
            copy.backup(self.connection)

    def close(self) -> None:
        """Forget the tables."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

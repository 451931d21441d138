"""Where the chaos happens: an SQLite file or a database of a PostgreSQL server, seen from outside.

The application's tables are made here, and everything is read by plain SQL: what the engine says
of itself is no evidence.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import attrs
import psycopg
from psycopg.rows import dict_row

# No unique keys: a row written twice is to be found, not refused.
TABLES = (
    "CREATE TABLE ledger_writes (workflow_id TEXT, place TEXT)",
    "CREATE TABLE ledger_ends (workflow_id TEXT, kind TEXT, detail TEXT, context TEXT)",
)


class Database(Protocol):
    """A database with the application's tables, at rest or at work."""

    @property
    def address(self) -> str:
        """As for `WorkflowManager`."""
        ...

    @property
    def folder(self) -> Path:
        """For what else belongs to it: effects, logs."""
        ...

    def create_tables(self) -> None:
        """Make the application's own tables, before any worker starts."""
        ...

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """What a query finds, by column."""
        ...

    def check(self) -> list[str]:
        """What the database itself finds damaged."""
        ...


def values(database: Database, sql: str) -> list[tuple[Any, ...]]:
    """What a query finds, as tuples."""
    return [tuple(row.values()) for row in database.rows(sql)]


def value(database: Database, sql: str) -> Any:
    """The first column of the only row."""
    ((found,),) = values(database, sql)
    return found


@attrs.frozen
class SqliteFile:
    """An SQLite file."""

    path: Path

    @property
    def address(self) -> str:
        return str(self.path)

    @property
    def folder(self) -> Path:
        return self.path.parent

    def create_tables(self) -> None:
        with closing(sqlite3.connect(self.path)) as connection:
            for sql in TABLES:
                connection.execute(sql)
            connection.commit()

    def rows(self, sql: str) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(self.path)) as connection:
            cursor = connection.execute(sql)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]

    def check(self) -> list[str]:
        found = [row for (row,) in values(self, "PRAGMA integrity_check") if row != "ok"]
        broken = values(self, "PRAGMA foreign_key_check")
        return [f"integrity: {row}" for row in found] + [f"foreign key: {row}" for row in broken]


@attrs.frozen
class ServerDatabase:
    """A database of a PostgreSQL server.

    Attributes:
        address: of the database.
        folder: for what belongs to it.
        options: for the manager, as the query of its address.
    """

    server_address: str
    folder: Path
    options: str = ""

    @property
    def address(self) -> str:
        mark = "&" if "?" in self.server_address else "?"
        return f"{self.server_address}{mark}{self.options}" if self.options else self.server_address

    def create_tables(self) -> None:
        with psycopg.connect(self.server_address) as connection:
            for sql in TABLES:
                connection.execute(sql.encode())

    def rows(self, sql: str) -> list[dict[str, Any]]:
        with psycopg.connect(self.server_address, row_factory=dict_row) as connection:
            return connection.execute(sql.encode()).fetchall()

    def check(self) -> list[str]:
        """Nothing is damaged that a plain read of all rows does not find."""
        for table in values(self, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
            self.rows(f"SELECT * FROM {table[0]}")
        return []

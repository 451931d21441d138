"""One kind of database after the other, for what all stores on a disk or a server must do alike."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
from tests.store.postgres.databases import STILL, execute

from perdure.store.base import Access
from perdure.store.postgres.schema import SCHEMA as POSTGRES_SCHEMA
from perdure.store.postgres.store import PostgresStore
from perdure.store.sqlite import SqliteStore
from perdure.store.sqlite_schema import SCHEMA as SQLITE_SCHEMA
from perdure.store.versions import Schema


@attrs.frozen
class Place:
    """A database of the test's own.

    Attributes:
        kind: of its schema.
        address: as `WorkflowManager` takes it.
    """

    kind: str
    address: str

    @property
    def schema(self) -> Schema:
        """The tables that this code knows."""
        return SQLITE_SCHEMA if self.kind == "sqlite" else POSTGRES_SCHEMA

    def store(
        self, *, schema: Schema | None = None, access: Access = "create"
    ) -> SqliteStore | PostgresStore:
        """A store on it, not open yet."""
        schema = schema or self.schema
        if self.kind == "sqlite":
            return SqliteStore(self.address, access=access, schema=schema)
        return PostgresStore(self.address + STILL, access=access, schema=schema)

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a statement on a connection of its own; its rows."""
        if self.kind == "postgres":
            return execute(self.address, sql)
        with closing(sqlite3.connect(self.address, isolation_level=None)) as connection:
            return connection.execute(sql).fetchall()

    def emptied(self) -> Place:
        """One with nothing in it, of the same kind: the same on a server."""
        if self.kind == "sqlite":
            return Place(self.kind, f"{self.address}-next")
        self.execute("DROP SCHEMA public CASCADE")
        self.execute("CREATE SCHEMA public")
        return self

    def connect(self) -> Any:
        """A connection of the user's own."""
        if self.kind == "sqlite":
            return sqlite3.connect(self.address)
        import psycopg

        return psycopg.connect(self.address)

    def tables(self) -> list[tuple[Any, ...]]:
        """All that perdure has made there: columns, constraints, indexes and triggers, in words."""
        if self.kind == "sqlite":
            sql = "SELECT type, name, sql FROM sqlite_master WHERE name LIKE '%perdure%'"
            return [
                (kind, name, " ".join((text or "").split()))
                for kind, name, text in self.execute(f"{sql} ORDER BY name")
            ]
        return [
            *self.execute(
                "SELECT table_name, column_name, ordinal_position, data_type, is_nullable,"
                " column_default, collation_name FROM information_schema.columns"
                " WHERE table_name LIKE 'perdure%' ORDER BY table_name, ordinal_position"
            ),
            *self.execute(
                "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)"
                " FROM pg_constraint WHERE conrelid::regclass::text LIKE 'perdure%'"
                " ORDER BY 1, 2"
            ),
            *self.execute(
                "SELECT indexname, indexdef FROM pg_indexes"
                " WHERE tablename LIKE 'perdure%' ORDER BY indexname"
            ),
            *self.execute(
                "SELECT relname, reloptions FROM pg_class WHERE relname LIKE 'perdure%'"
                " AND relkind = 'r' ORDER BY relname"
            ),
            *self.execute(
                "SELECT pg_get_triggerdef(t.oid), p.prosrc FROM pg_trigger t"
                " JOIN pg_proc p ON p.oid = t.tgfoid"
                " WHERE t.tgname LIKE 'perdure%' ORDER BY 1"
            ),
        ]


def newer(place: Place, folder: Path, *statements: str) -> Schema:
    """The schema of a perdure to come, in which these statements are new."""
    known = place.schema
    added = "".join(f"{statement};\n" for statement in statements)
    for path in known.folder.iterdir():
        text = path.read_text("utf-8")
        (folder / path.name).write_text(text + added if path.name == f"{known.kind}.sql" else text)
    (folder / f"{known.kind}-{known.version + 1}.sql").write_text(added)
    return Schema(known.kind, known.version + 1, folder)

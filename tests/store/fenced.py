"""A connection of the engine's with a transaction in it, and what a step may do to it."""

from __future__ import annotations

import contextlib
import pathlib
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from perdure import errors
from perdure.store.connection import Connection

SCHEMA = """
    CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT);
    CREATE TABLE other (workflow TEXT);
    CREATE TABLE parent (id INTEGER PRIMARY KEY);
    CREATE TABLE child (parent INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
"""


def connect(path: str | pathlib.Path) -> Connection:
    return sqlite3.connect(path, factory=Connection, timeout=0)


@contextlib.contextmanager
def amid_others(tmp_path: pathlib.Path) -> Iterator[Connection]:
    """A connection with an open transaction that holds another workflow's write."""
    with sqlite3.connect(path := tmp_path / "store.db") as plain:
        plain.execute("PRAGMA journal_mode = WAL")
        plain.executescript(SCHEMA)
    plain.close()
    connection = connect(path)
    connection.engine_execute("PRAGMA foreign_keys = ON")
    connection.begin()
    connection.engine_execute("INSERT INTO other VALUES ('neighbour')")
    try:
        yield connection
    finally:
        connection.rollback()
        connection.close()


def mutate(db: Connection, fn: Callable[[], Any]) -> Any:
    return db.run_user_code(fn, read_only=False)


def query(db: Connection, fn: Callable[[], Any]) -> Any:
    return db.run_user_code(fn, read_only=True)


def items(db: Connection) -> list[Any]:
    return [name for (name,) in db.engine_execute("SELECT name FROM item ORDER BY id")]


def neighbours(db: Connection) -> int:
    return int(db.engine_execute("SELECT count(*) FROM other").fetchone()[0])


def add(db: Connection, name: str) -> None:
    db.execute("INSERT INTO item (name) VALUES (?)", (name,))


def refused(fn: Callable[[], Any], match: str) -> errors.ConnectionMisuse:
    with pytest.raises(errors.ConnectionMisuse, match=match) as caught:
        fn()
    return caught.value

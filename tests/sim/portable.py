"""SQL of the tests' applications that runs on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any


def execute(db: Any, sql: str, parameters: Sequence[object] = ()) -> Any:
    """Run a statement, written with SQLite's marks: ``?`` for a parameter, ``rowid`` for the order
    in which rows were inserted; there is neither within a text."""
    if not isinstance(db, sqlite3.Connection):
        sql = sql.replace("?", "%s").replace("rowid", "ctid")
    return db.execute(sql, parameters)

"""The tables in SQLite: making them, and bringing older ones up to date.

What does not belong here: opening the file, and what is in the tables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from perdure.core.limits import PARALLELISM_DEFAULT

from .versions import Schema

#: Raised by one with each change of schema/sqlite.sql, and with a file that leads there.
SCHEMA_VERSION = 2

SCHEMA = Schema("sqlite", SCHEMA_VERSION)

Execute = Callable[..., Any]

_NOW = "CAST(strftime('%s', 'now') AS INTEGER) * 1000"


def create_tables(execute: Execute, max_parallelism: int | None, schema: Schema = SCHEMA) -> None:
    """Make the tables in the open transaction.

    Args:
        max_parallelism: initial value of the setting.
    """
    for statement in schema.creation():
        execute(statement)
    limit = PARALLELISM_DEFAULT if max_parallelism is None else max_parallelism
    execute("INSERT INTO perdure_config VALUES (1, ?, ?, 1, 1)", (schema.version, limit))


def upgrade_tables(execute: Execute, schema: Schema) -> int | None:
    """Bring the tables up to date in the open transaction, which keeps other writers out; nothing,
    if another process was faster. The version that they had.

    SQLite changes tables within transactions: a crash on the way leaves the old ones.
    """
    (version,) = execute("SELECT schema_version FROM perdure_config").fetchone()
    if not schema.is_older(version):
        return None
    schema.upgrade(execute, version, now=_NOW)
    return version

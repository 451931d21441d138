"""The tables: whether they are there, whose they are, making them, bringing them up to date.

What does not belong here: what is in them.
"""

from __future__ import annotations

from typing import Any

import psycopg

from perdure.core.limits import PARALLELISM_DEFAULT
from perdure.errors import StoreError

from ..versions import Schema
from .address import LOCK_TIMEOUT_MS
from .reads import Execute

#: Raised by one with each change of schema/postgres.sql, and with a file that leads there.
SCHEMA_VERSION = 2

SCHEMA = Schema("postgres", SCHEMA_VERSION)

#: The lock of whoever makes the tables, or changes them: any number that nobody else uses.
_LOCK_KEY = 0x70657264757265  # "perdure"

# What a statement without a schema's name would mean. One look, because another process may be
# making the tables just now.
_OUR_NAMES = (
    "SELECT coalesce(bool_or(relname = 'perdure_config'), false), min(relname::text) FROM pg_class"
    r" WHERE relname LIKE 'perdure\_%' AND pg_table_is_visible(oid)"
)

#: Whoever reads or writes is waited for, and waits: clients too, which have no row to be fenced by.
_TABLES = (
    "perdure_workers, perdure_workflows, perdure_steps, perdure_ticks, perdure_events,"
    " perdure_inbox, perdure_config"
)

_NOW = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"


def check_encoding(connection: psycopg.Connection[Any], text: str) -> None:
    """Raise if the database cannot hold every text. (SQL_ASCII holds whatever it is given.)

    Raises:
        StoreError
    """
    encoding = connection.info.parameter_status("server_encoding")
    if encoding not in ("UTF8", "SQL_ASCII", None):
        raise StoreError(
            f"{text}: its encoding is {encoding}, which has not every character: make another"
            " database: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )


def stored_version(execute: Execute, text: str) -> object:
    """The version of perdure's tables; None if there are none.

    Raises:
        StoreError: something else has a name of theirs.
    """
    has_config, first_name = execute(_OUR_NAMES).fetchone()
    if has_config:
        return _read_version(execute, text)
    if first_name is not None:
        raise _not_ours(first_name, text)
    return None


def _read_version(execute: Execute, text: str) -> object:
    sql = (
        "SELECT count(*) FROM pg_attribute WHERE attrelid = 'perdure_config'::regclass"
        " AND attname IN ('schema_version', 'max_parallelism') AND NOT attisdropped"
    )
    if execute(sql).fetchone()[0] != 2:
        raise _not_ours("perdure_config", text)
    row = execute("SELECT schema_version FROM perdure_config").fetchone()
    return "unknown" if row is None else row[0]


def _not_ours(name: str, text: str) -> StoreError:
    return StoreError(
        f"{text}: it has a table or index named {name}, but not perdure's tables: rename what"
        " begins with perdure_, or give perdure a schema of its own (?options=-csearch_path%3D…)"
    )


def create_tables(
    execute: Execute, max_parallelism: int | None, text: str, schema: Schema = SCHEMA
) -> None:
    """Make the tables in the open transaction, unless another process was faster.

    Args:
        max_parallelism: initial value of the setting.
    """
    execute("SELECT pg_advisory_xact_lock($1)", (_LOCK_KEY,))
    version = stored_version(execute, text)
    if version is not None:
        schema.check(version, text)
        return
    for statement in schema.creation():
        execute(statement)
    limit = PARALLELISM_DEFAULT if max_parallelism is None else max_parallelism
    execute("INSERT INTO perdure_config VALUES (1, $1, $2)", (schema.version, limit))


def upgrade_tables(execute: Execute, text: str, schema: Schema) -> int | None:
    """Bring the tables up to date in the open transaction; nothing, if another process was faster.
    The version that they had.

    PostgreSQL changes tables within transactions: a crash on the way leaves the old ones. Nobody
    else reads or writes them until it ends.

    Raises:
        psycopg.Error: others hold their locks for long, or wait for these.
    """
    execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
    execute("SET LOCAL statement_timeout = 0")  # an index of a large table takes long
    execute("SELECT pg_advisory_xact_lock($1)", (_LOCK_KEY,))
    version = stored_version(execute, text)
    if not schema.is_older(version):
        return None
    execute(f"LOCK TABLE {_TABLES} IN ACCESS EXCLUSIVE MODE")
    schema.upgrade(execute, version, now=_NOW)
    return version

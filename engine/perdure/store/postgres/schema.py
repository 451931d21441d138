"""The tables: whether they are there, whose they are, and making them.

What does not belong here: what is in them.
"""

from __future__ import annotations

import re
from importlib import resources

from perdure.core.limits import PARALLELISM_DEFAULT
from perdure.errors import StoreError, StoreVersionError

from .reads import Execute

#: Raised by one with each change of schema/postgres.sql.
SCHEMA_VERSION = 1

#: The lock of whoever makes the tables, or changes them: any number that nobody else uses.
_LOCK_KEY = 0x70657264757265  # "perdure"

# What a statement without a schema's name would mean. One look, because another process may be
# making the tables just now.
_OUR_NAMES = (
    "SELECT coalesce(bool_or(relname = 'perdure_config'), false), min(relname::text) FROM pg_class"
    r" WHERE relname LIKE 'perdure\_%' AND pg_table_is_visible(oid)"
)


def has_tables(execute: Execute, text: str) -> bool:
    """Whether perdure's tables are there, of the version that this code knows.

    Raises:
        StoreVersionError: they are of another one.
        StoreError: something else has a name of theirs.
    """
    has_config, first_name = execute(_OUR_NAMES).fetchone()
    if has_config:
        check_version(_stored_version(execute, text), text)
    elif first_name is not None:
        raise _not_ours(first_name, text)
    return bool(has_config)


def _stored_version(execute: Execute, text: str) -> object:
    sql = (
        "SELECT count(*) FROM pg_attribute WHERE attrelid = 'perdure_config'::regclass"
        " AND attname IN ('schema_version', 'max_parallelism') AND NOT attisdropped"
    )
    if execute(sql).fetchone()[0] != 2:
        raise _not_ours("perdure_config", text)
    row = execute("SELECT schema_version FROM perdure_config").fetchone()
    return None if row is None else row[0]


def _not_ours(name: str, text: str) -> StoreError:
    return StoreError(
        f"{text}: it has a table or index named {name}, but not perdure's tables: rename what"
        " begins with perdure_, or give perdure a schema of its own (?options=-csearch_path%3D…)"
    )


def check_version(version: object, text: str) -> None:
    """Raise if a stored schema version is not this code's.

    Raises:
        StoreVersionError
    """
    if version == SCHEMA_VERSION:
        return
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise StoreVersionError(
            f"{text}: its schema is version {version}, newer than {SCHEMA_VERSION}, which"
            " this perdure knows: upgrade perdure in this process"
        )
    raise StoreVersionError(
        f"{text}: its schema is version {version}, which this perdure (it knows"
        f" {SCHEMA_VERSION}) does not know: restore a backup, or ask for help with it"
    )


def create_tables(execute: Execute, max_parallelism: int | None, text: str) -> None:
    """Make the tables in the open transaction, unless another process was faster.

    Args:
        max_parallelism: initial value of the setting.
    """
    execute("SELECT pg_advisory_xact_lock($1)", (_LOCK_KEY,))
    if has_tables(execute, text):
        return
    for statement in _statements():
        execute(statement)
    limit = PARALLELISM_DEFAULT if max_parallelism is None else max_parallelism
    execute("INSERT INTO perdure_config VALUES (1, $1, $2)", (SCHEMA_VERSION, limit))


def _statements() -> list[str]:
    script = resources.files("perdure.store").joinpath("schema/postgres.sql").read_text("utf-8")
    # What is indented goes on with a statement: the body of a function has semicolons too.
    return [statement for statement in re.split(r";\n(?! )", script) if statement.strip()]

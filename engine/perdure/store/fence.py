"""What user code may do on the engine's connection: SQLite's authorizer, and what it goes by.

What does not belong here: running the user's code (connection.py), and any SQL.
"""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Callable
from typing import Any

from perdure.errors import StoreError

# The mode of the fence is the comment that marks the statements run in it. Texts, not an enum,
# because each user statement needs it as a prefix.
ENGINE = ""
MUTATION = "/* perdure mutation */ "
QUERY = "/* perdure query */ "

SAVEPOINT_NAME = "perdure_user_code"

# Pragmas that only show something, with an argument and without.
_PRAGMAS_INSPECTING = frozenset(
    {"collation_list", "compile_options", "database_list", "foreign_key_check"}
    | {"foreign_key_list", "function_list", "index_info", "index_list", "index_xinfo"}
    | {"integrity_check", "module_list", "pragma_list", "quick_check", "table_info"}
    | {"table_list", "table_xinfo"}
)
# Pragmas that show something without an argument and change the connection or file with one.
# `data_version` and `page_size` are asked for by FTS5, FTS4 and R*Tree themselves.
_PRAGMAS_READABLE = frozenset(
    {"application_id", "auto_vacuum", "busy_timeout", "cache_size", "data_version"}
    | {"defer_foreign_keys", "encoding", "foreign_keys", "freelist_count", "journal_mode"}
    | {"max_page_count", "page_count", "page_size", "query_only", "recursive_triggers"}
    | {"schema_version", "synchronous", "user_version"}
)

_TEMPORARY = frozenset(
    {sqlite3.SQLITE_CREATE_TEMP_INDEX, sqlite3.SQLITE_CREATE_TEMP_TABLE}
    | {sqlite3.SQLITE_CREATE_TEMP_TRIGGER, sqlite3.SQLITE_CREATE_TEMP_VIEW}
)
_READING = frozenset(
    {sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE, sqlite3.SQLITE_SELECT}
)
_ROW_WRITES = frozenset({sqlite3.SQLITE_DELETE, sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE})
# An R*Tree prepares its writes as soon as it is first read from.
_RTREE_SUFFIXES = ("_node", "_rowid", "_parent")

# The engine's own tables: all names that begin so, in any case.
_OURS = "perdure_"
# Which of the authorizer's two names may be one of ours; the second of an UPDATE is a column.
_NAMED_FIRST = frozenset(
    {*_ROW_WRITES, sqlite3.SQLITE_CREATE_TABLE, sqlite3.SQLITE_CREATE_VIEW}
    | {sqlite3.SQLITE_CREATE_VTABLE, sqlite3.SQLITE_DROP_TABLE, sqlite3.SQLITE_DROP_VIEW}
    | {sqlite3.SQLITE_DROP_VTABLE}
)
_NAMED_BOTH = frozenset(
    {sqlite3.SQLITE_CREATE_INDEX, sqlite3.SQLITE_CREATE_TRIGGER, sqlite3.SQLITE_DROP_INDEX}
    | {sqlite3.SQLITE_DROP_TRIGGER, sqlite3.SQLITE_ALTER_TABLE}
)

WHY_NOT = "the engine commits this transaction together with the step"
READ_ONLY = "a query must not write: make it a mutation"


class Fence:
    """What the connection, its cursors and its authorizer share.

    Apart from the connection, so that the authorizer does not hold the connection in a cycle.
    """

    __slots__ = ("added", "defined", "denied", "kept", "lost", "mode", "removed", "trouble")

    def __init__(self) -> None:
        self.mode = ENGINE
        self.denied: str | None = None  # why the authorizer refused the last statement
        self.kept: set[weakref.ref[Any]] = set()  # cursors and blobs to close after the call
        # Functions and collations, by kind and name: what the call has added, with how to remove
        # it; what any call under way has; what calls had that have ended.
        self.added: list[tuple[tuple[str, str], Callable[[], None]]] = []
        self.defined: set[tuple[str, str]] = set()
        self.removed: set[tuple[str, str]] = set()
        # These two belong to the transaction: `begin` clears them.
        self.trouble: StoreError | None = None
        self.lost: str | None = None  # the statement after which the transaction was gone

    def authorize(
        self, action: int, one: str | None, two: str | None, _db: str | None, _by: str | None
    ) -> int:
        """SQLite's authorizer: what may be prepared while user code runs."""
        if self.mode == ENGINE or action in _READING:
            return sqlite3.SQLITE_OK
        why = self._objection(action, one or "", two)
        if why is None:
            return sqlite3.SQLITE_OK
        self.denied = why
        return sqlite3.SQLITE_DENY

    def _objection(self, action: int, one: str, two: str | None) -> str | None:
        if action == sqlite3.SQLITE_TRANSACTION:
            return f"{one} inside a step: {WHY_NOT}; raise an exception to undo the step"
        if action == sqlite3.SQLITE_SAVEPOINT:
            if (two or "").lower() == SAVEPOINT_NAME:
                return f"{one} of the savepoint {two}, which is the engine's: choose another name"
            return None
        if action == sqlite3.SQLITE_PRAGMA:
            name = one.lower()
            if name in _PRAGMAS_INSPECTING or (two is None and name in _PRAGMAS_READABLE):
                return None
            return f"PRAGMA {one} inside a step: it would change the engine's connection"
        if action in (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH):
            return "ATTACH and DETACH inside a step: open a connection of your own in an action"
        if action in _TEMPORARY:
            return "a temporary object inside a step would stay for other workflows: use a table"
        ours = _ours_of(action, one, two)
        if ours is not None:
            return why_reserved(ours)
        if self.mode == QUERY and not _is_internal_write(action, one):
            return READ_ONLY
        return None


def is_reserved(name: str) -> bool:
    """Whether a table, view, index or trigger of this name is the engine's."""
    return name.lower().startswith(_OURS)


def why_reserved(name: str) -> str:
    """Why user code may not write to what has this name, and what to do instead."""
    return (
        f"{name} is the engine's own (all names that begin with {_OURS} are) and may only be read:"
        " use ctx.start, ctx.send_event and ctx.cancel, and other names for your tables"
    )


def _ours_of(action: int, one: str, two: str | None) -> str | None:
    """What of the engine's a statement would write to or change, or be taken for."""
    if action in _NAMED_FIRST:
        names: tuple[str, ...] = (one,)
    elif action in _NAMED_BOTH:
        names = (two or "", one)
    else:
        return None
    return next((name for name in names if is_reserved(name)), None)


def _is_internal_write(action: int, table: str) -> bool:
    """Writes that SQLite prepares by itself when a virtual table is first read from.

    Users cannot write to sqlite_master anyway; a write to a table of theirs that is named like a
    part of an R*Tree is found out by `total_changes`.
    """
    if action == sqlite3.SQLITE_UPDATE and table in ("sqlite_master", "sqlite_temp_master"):
        return True
    return action in _ROW_WRITES and table.endswith(_RTREE_SUFFIXES)

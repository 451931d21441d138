"""Statements that write one row, or many at once from a list for each column.

Many rows by one statement: one answer of the server's, and one plan that serves any number.
What does not belong here: which tables there are (writes.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .reads import Statement, columns

_TEXTS = frozenset(
    {"id", "name", "arguments", "context", "on_complete", "parent_id", "status", "value", "error"}
    | {"owner", "blocked", "on_complete_error", "workflow_id", "kind", "function", "options"}
    | {"child_id", "state", "runner", "outcome", "event_id", "body", "worker"}
)


def _type(column: str) -> str:
    if column == "away":
        return "boolean"
    if column == "lease_seconds":
        return "double precision"
    return "text" if column in _TEXTS else "bigint"


def typed_mark(number: int, column: str) -> str:
    """A parameter for a column of this name, where its type cannot be told by its place."""
    return f"${number}::{_type(column)}"


def marks(names: Sequence[str], first: int = 1) -> str:
    return ", ".join(f"${first + index}" for index in range(len(names)))


def _arrays(names: Sequence[str]) -> str:
    """A table of many rows, from one list for each column, in their order."""
    lists = ", ".join(f"${n}::{_type(name)}[]" for n, name in enumerate(names, start=1))
    return f"unnest({lists}) WITH ORDINALITY AS n ({columns(names)}, nth)"


class Insert:
    """Inserts one row, or many by one statement."""

    def __init__(self, table: str, names: Sequence[str]) -> None:
        head = f"INSERT INTO {table} ({columns(names)})"
        self._one = f"{head} VALUES ({marks(names)})"
        self._many = f"{head} SELECT {columns(names, of='n')} FROM {_arrays(names)} ORDER BY nth"

    def __call__(self, rows: Sequence[tuple[Any, ...]]) -> Statement:
        return _one_or_many(self._one, self._many, rows)


class Update:
    """Updates the rows that have these keys, one or many by one statement.

    Args:
        names: of the columns to set, whose values come first.
        keys: of the columns that tell a row, whose values follow.
        returning: what is given back of each row that was there, of the table `t`.
        only_if: what must be so beside.
        fence: the id of a worker follows, who must not be fenced.
    """

    def __init__(
        self,
        table: str,
        names: Sequence[str],
        keys: Sequence[str],
        *,
        returning: str = "",
        only_if: str = "",
        fence: bool = False,
    ) -> None:
        every = (*names, *keys)
        marks = {name: f"${n}" for n, name in enumerate(every, start=1)}
        tail = f" RETURNING {returning}" if returning else ""
        if only_if:
            tail = f" AND {only_if}{tail}"
        if fence:
            alive = f"SELECT 1 FROM perdure_workers WHERE id = ${len(every) + 1} AND NOT fenced"
            tail = f" AND EXISTS ({alive}){tail}"
        head = f"UPDATE {table} t SET "
        self._one = (
            head
            + ", ".join(f"{name} = {marks[name]}" for name in names)
            + " WHERE "
            + " AND ".join(f"t.{key} = {marks[key]}" for key in keys)
            + tail
        )
        self._many = (
            head
            + ", ".join(f"{name} = n.{name}" for name in names)
            + f" FROM {_arrays(every)} WHERE "
            + " AND ".join(f"t.{key} = n.{key}" for key in keys)
            + tail
        )

    def __call__(self, rows: Sequence[tuple[Any, ...]], *more: Any) -> Statement:
        sql, values = _one_or_many(self._one, self._many, rows)
        return sql, (*values, *more)


def _one_or_many(one: str, many: str, rows: Sequence[tuple[Any, ...]]) -> Statement:
    if len(rows) == 1:
        return one, rows[0]
    return many, [list(column) for column in zip(*rows, strict=True)]

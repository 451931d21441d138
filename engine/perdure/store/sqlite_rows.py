"""How SQLite writes a workflow or a step: with statements that name what is null.

A None for a parameter costs on Python 3.11 several times what a number costs, about a microsecond
(sqlite3 looks for an adapter), and most columns of a row are null: so what is null is said in the
text of the statement. There is one text for each pattern of nulls, which are few.

Not here: reading rows, and all other tables (sqlite_sql.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from perdure.core.journal import StepRecord
from perdure.core.workflow import WorkflowState

from .base import StepWrite
from .rows import (
    COMMAND_COLUMNS,
    HEADER_COLUMNS,
    PROGRESS_COLUMNS,
    PROGRESS_STATE_COLUMNS,
    STATE_COLUMNS,
    SUCCESS_COLUMNS,
    command_row,
    end_row,
    header_row,
    is_plain_success,
    progress_state_row,
    run_row,
    state_row,
    success_row,
)

#: A statement and its parameters.
Statement: TypeAlias = tuple[str, tuple[Any, ...]]


def columns(*names: Sequence[str]) -> str:
    return ", ".join(name for group in names for name in group)


def marks(*names: Sequence[str]) -> str:
    return ", ".join("?" for group in names for _ in group)


def assignments(names: Iterable[str], nulls: Iterable[str] = ()) -> str:
    values = [f"{name} = ?" for name in names] + [f"{name} = NULL" for name in sorted(nulls)]
    return ", ".join(values)


STATE = columns(HEADER_COLUMNS, STATE_COLUMNS)
STEP = columns(COMMAND_COLUMNS, PROGRESS_COLUMNS)

_WORKFLOW_COLUMNS = HEADER_COLUMNS + STATE_COLUMNS
_STEP_COLUMNS = COMMAND_COLUMNS + PROGRESS_COLUMNS
_THIS_STEP = " WHERE workflow_id = ? AND number = ?"
_THIS_WORKFLOW = " WHERE id = ? AND epoch = ?"
# The worker's fence within the statement that every commit has: a look of its own would cost more.
_THIS_WORKFLOW_FENCED = (
    f"{_THIS_WORKFLOW} AND EXISTS (SELECT 1 FROM perdure_workers WHERE id = ? AND fenced = 0)"
)

# What most steps are written with needs no look at each of its values.
_STARTED_COLUMNS = (*COMMAND_COLUMNS[:-1], "runner", "attempt", "started_at", "started_epoch")
_INSERT_STARTED = (
    f"INSERT INTO perdure_steps ({columns(_STARTED_COLUMNS)}, state)"
    f" VALUES ({marks(_STARTED_COLUMNS)}, 'started')"
)
_UPDATE_SUCCESS = (
    "UPDATE perdure_steps SET state = 'settled', outcome = 'success', "
    + assignments(SUCCESS_COLUMNS, {*PROGRESS_COLUMNS} - {"state", "outcome", *SUCCESS_COLUMNS})
    + _THIS_STEP
)


@lru_cache(maxsize=1024)
def _insert_text(table: str, names: tuple[str, ...], are_null: tuple[bool, ...]) -> str:
    values = ["NULL" if is_null else "?" for is_null in are_null]
    return f"INSERT INTO {table} ({columns(names)}) VALUES ({columns(values)})"


@lru_cache(maxsize=1024)
def _update_text(table: str, names: tuple[str, ...], are_null: tuple[bool, ...], where: str) -> str:
    given = [name for name, is_null in zip(names, are_null, strict=True) if not is_null]
    nulls = [name for name, is_null in zip(names, are_null, strict=True) if is_null]
    return f"UPDATE {table} SET {assignments(given, nulls)}{where}"


def _insert(table: str, names: tuple[str, ...], row: tuple[Any, ...]) -> Statement:
    """What writes a new row."""
    are_null = tuple([value is None for value in row])
    return _insert_text(table, names, are_null), tuple([x for x in row if x is not None])


def _update(
    table: str, names: tuple[str, ...], row: tuple[Any, ...], where: str, key: tuple[Any, ...]
) -> Statement:
    """What writes the row anew that is found by `key`."""
    are_null = tuple([value is None for value in row])
    given = [value for value in row if value is not None]
    return _update_text(table, names, are_null, where), (*given, *key)


def workflow_insert(state: WorkflowState) -> Statement:
    """What writes a new workflow."""
    row = header_row(state.header) + state_row(state)
    return _insert("perdure_workflows", _WORKFLOW_COLUMNS, row)


def workflow_update(
    state: WorkflowState, epoch: int, fence: str | None, *, is_progress: bool
) -> Statement:
    """What writes a workflow anew, if its epoch is `epoch` and the worker `fence` is not fenced.

    SQLite writes an index anew when a column of it is assigned, the same value or not: so these are
    left out where they are the same (`is_progress`), which halves the pages that a step costs.
    """
    key: tuple[Any, ...] = (state.header.workflow_id, epoch)
    where = _THIS_WORKFLOW
    if fence is not None:
        key, where = (*key, fence), _THIS_WORKFLOW_FENCED
    if is_progress:
        row = progress_state_row(state)
        return _update("perdure_workflows", PROGRESS_STATE_COLUMNS, row, where, key)
    return _update("perdure_workflows", STATE_COLUMNS, state_row(state), where, key)


def _has_just_begun(record: StepRecord) -> bool:
    """Whether it is an action that was started when it was asked for, with no time limit: what it
    has is what the statement for such steps names."""
    return (
        record.state == "started"
        and record.deadline_at is None
        and record.due_at is None
        and record.child_id is None
        and record.outcome is None
    )


def step_row(write: StepWrite) -> Statement:
    """What writes a step."""
    workflow_id, record = write.workflow_id, write.record
    if write.is_new:
        command = command_row(workflow_id, record)
        if _has_just_begun(record):
            run = (record.runner, record.attempt, record.started_at, record.started_epoch)
            return _INSERT_STARTED, command[:-1] + run
        row = command + run_row(record) + end_row(record)
        return _insert("perdure_steps", _STEP_COLUMNS, row)
    key = (workflow_id, record.number)
    if is_plain_success(record) and record.delivered_position is not None:
        return _UPDATE_SUCCESS, success_row(record) + key
    row = run_row(record) + end_row(record)
    return _update("perdure_steps", PROGRESS_COLUMNS, row, _THIS_STEP, key)

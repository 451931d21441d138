"""How SQLite writes a step: of four statements the one that says the least.

Not here: reading steps, and all other tables (sqlite_sql.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .base import StepWrite
from .rows import (
    COMMAND_COLUMNS,
    END_COLUMNS,
    PROGRESS_COLUMNS,
    RUN_COLUMNS,
    SUCCESS_COLUMNS,
    command_row,
    end_row,
    is_plain_success,
    run_row,
    success_row,
)


def columns(*names: Sequence[str]) -> str:
    return ", ".join(name for group in names for name in group)


def marks(*names: Sequence[str]) -> str:
    return ", ".join("?" for group in names for _ in group)


def assignments(names: Sequence[str]) -> str:
    return ", ".join(f"{name} = ?" for name in names)


def nulls(names: Iterable[str]) -> str:
    return ", ".join(f"{name} = NULL" for name in sorted(names))


STEP = columns(COMMAND_COLUMNS, PROGRESS_COLUMNS)
_INSERT_STEP = (
    f"INSERT INTO perdure_steps ({STEP}) VALUES ({marks(COMMAND_COLUMNS, PROGRESS_COLUMNS)})"
)
_THIS_STEP = " WHERE workflow_id = ? AND number = ?"
_UPDATE_STEP = f"UPDATE perdure_steps SET {assignments(PROGRESS_COLUMNS)}{_THIS_STEP}"
# A None for a parameter costs on Python 3.11 what ten numbers cost (sqlite3 looks for an adapter),
# and most of these would be None: so what is null for certain is said in the text.
_OPEN_COLUMNS = (*COMMAND_COLUMNS[:-1], *RUN_COLUMNS)  # no child, no outcome
_INSERT_OPEN_STEP = (
    f"INSERT INTO perdure_steps ({columns(_OPEN_COLUMNS)}) VALUES ({marks(_OPEN_COLUMNS)})"
)
_UPDATE_OPEN_STEP = (
    f"UPDATE perdure_steps SET {assignments(RUN_COLUMNS)}, {nulls(END_COLUMNS)}{_THIS_STEP}"
)
_UPDATE_SUCCESS = (
    f"UPDATE perdure_steps SET state = 'settled', outcome = 'success',"
    f" {assignments(SUCCESS_COLUMNS)},"
    f" {nulls({*PROGRESS_COLUMNS} - {'state', 'outcome', *SUCCESS_COLUMNS})}{_THIS_STEP}"
)


def step_row(write: StepWrite) -> tuple[str, tuple[Any, ...]]:
    """The statement that writes a step, and its parameters."""
    workflow_id, record = write.workflow_id, write.record
    is_ended = record.outcome is not None
    if write.is_new:
        command, run = command_row(workflow_id, record), run_row(record)
        if is_ended or record.child_id is not None:
            return _INSERT_STEP, command + run + end_row(record)
        return _INSERT_OPEN_STEP, command[:-1] + run
    key = (workflow_id, record.number)
    if not is_ended:
        return _UPDATE_OPEN_STEP, run_row(record) + key
    if is_plain_success(record):
        return _UPDATE_SUCCESS, success_row(record) + key
    return _UPDATE_STEP, run_row(record) + end_row(record) + key

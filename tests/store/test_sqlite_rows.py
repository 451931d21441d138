"""The statement that writes a step: it fits the row, and leaves nothing of the last one behind."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from perdure.core.journal import StepRecord
from perdure.store.base import StepWrite
from perdure.store.rows import COMMAND_COLUMNS, PROGRESS_COLUMNS, step_from_row
from perdure.store.sqlite_rows import STEP, step_row
from perdure_sim.conformance.bench import sample_steps

STEPS = sample_steps()


def table() -> sqlite3.Connection:
    """A table with the columns of steps, without what it must hold."""
    db = sqlite3.connect(":memory:")
    db.execute(f"CREATE TABLE perdure_steps ({', '.join((*COMMAND_COLUMNS, *PROGRESS_COLUMNS))})")
    return db


def write(db: sqlite3.Connection, record: StepRecord, *, is_new: bool) -> StepRecord:
    """Write a step of the workflow "a"; what is there then."""
    db.execute(*step_row(StepWrite(workflow_id="a", record=record, is_new=is_new)))
    sql = f"SELECT {STEP} FROM perdure_steps WHERE number = ?"
    ((*row,),) = db.execute(sql, (record.number,)).fetchall()
    return step_from_row(tuple(row))


@pytest.mark.parametrize("record", STEPS, ids=lambda each: f"step {each.number}")
def test_a_new_step_is_there_whole(record: StepRecord) -> None:
    """Whatever its kind and its state are."""
    with closing(table()) as db:
        assert write(db, record, is_new=True) == record


@pytest.mark.parametrize("record", STEPS, ids=lambda each: f"step {each.number}")
def test_nothing_of_the_last_row_is_left(record: StepRecord) -> None:
    """Over a row that is full the step is what it is; only what was asked for stays."""
    kept = len(COMMAND_COLUMNS)
    with closing(table()) as db:
        write(db, record, is_new=True)
        rest = ", ".join(f"{name} = coalesce({name}, '1')" for name in PROGRESS_COLUMNS)
        assert len(PROGRESS_COLUMNS) > kept / 2
        db.execute(f"UPDATE perdure_steps SET {rest}")
        assert write(db, record, is_new=False) == record

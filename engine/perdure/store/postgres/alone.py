"""The commit of a lone step as one statement, which is a transaction of its own.

Where one step waits for the one before it, a commit is four rows: the worker's lease, the workflow,
the step that has ended, the step that begins. Sent as one statement they take one round trip, and
less of the server's time and of ours than six statements do.

Its parts run in the order in which they need each other, so rows are locked in the order in which
everybody locks them: the worker's, then the workflow's, then its steps. Each waits for whoever
has locked its row, and then looks at the row again (READ COMMITTED): if the worker is fenced by
then, or the workflow has another epoch, that part finds nothing, and those after it do nothing.

What does not belong here: sending it, and what follows if its answer is lost (store.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perdure.core.ids import WorkerId

from ..base import StateWrite, StepWrite
from ..rows import (
    COMMAND_COLUMNS,
    END_COLUMNS,
    PROGRESS_COLUMNS,
    PROGRESS_STATE_COLUMNS,
    RUN_COLUMNS,
    SUCCESS_COLUMNS,
    command_row,
    end_row,
    is_plain_success,
    is_progress_only,
    progress_state_row,
    run_row,
    success_row,
)
from .reads import Statement, columns
from .statements import typed_mark

#: Of a new step, what is not null for certain: it has no child and no outcome.
_OPEN_COLUMNS = (*COMMAND_COLUMNS[1:-1], *RUN_COLUMNS)


class _Text:
    """A statement's text while it is put together, with numbers for its parameters."""

    def __init__(self) -> None:
        self._count = 0

    def mark(self, column: str) -> str:
        """The next parameter, for a column of this name."""
        self._count += 1
        return typed_mark(self._count, column)

    def marks(self, names: Sequence[str]) -> str:
        return ", ".join(map(self.mark, names))

    def assignments(self, names: Sequence[str]) -> str:
        return ", ".join(f"{name} = {self.mark(name)}" for name in names)


def _fence(text: _Text) -> str:
    # `session`: this statement may have waited on the way, and come after its commit was given up.
    return (
        "UPDATE perdure_workers SET lease_until = clock_timestamp()"
        f" + make_interval(secs => {text.mark('lease_seconds')})"
        f" WHERE id = {text.mark('id')} AND session = {text.mark('session')} AND NOT fenced"
        " RETURNING id"
    )


def _workflow(text: _Text) -> str:
    return (
        f"UPDATE perdure_workflows SET {text.assignments(PROGRESS_STATE_COLUMNS)}"
        f" WHERE id = {text.mark('id')} AND epoch = {text.mark('epoch')}"
        " AND EXISTS (SELECT FROM fence) RETURNING id"
    )


def _old_step(text: _Text, how: str) -> str:
    if how == "success":
        others = sorted({*PROGRESS_COLUMNS} - {"state", "outcome", *SUCCESS_COLUMNS})
        nulls = ", ".join(f"{name} = NULL" for name in others)
        sets = f"state = 'settled', outcome = 'success', {nulls}, "
        sets += text.assignments(SUCCESS_COLUMNS)
    elif how == "open":
        nulls = ", ".join(f"{name} = NULL" for name in END_COLUMNS)
        sets = f"{text.assignments(RUN_COLUMNS)}, {nulls}"
    else:
        sets = text.assignments(PROGRESS_COLUMNS)
    return (
        f"UPDATE perdure_steps SET {sets} WHERE workflow_id = {text.mark('workflow_id')}"
        f" AND number = {text.mark('number')} AND EXISTS (SELECT FROM workflow)"
    )


def _new_step(text: _Text) -> str:
    return (
        f"INSERT INTO perdure_steps (workflow_id, {columns(_OPEN_COLUMNS)})"
        f" SELECT id, {text.marks(_OPEN_COLUMNS)} FROM workflow"
    )


def _statement(old: str, has_new: bool) -> str:
    text = _Text()
    parts = {"fence": _fence(text), "workflow": _workflow(text)}
    if old:
        parts["old_step"] = _old_step(text, old)
    if has_new:
        parts["new_step"] = _new_step(text)
    ways = ", ".join(f"{name} AS ({part})" for name, part in parts.items())
    return f"WITH {ways} SELECT FROM workflow"


_STATEMENTS = {
    (old, has_new): _statement(old, has_new)
    for old in ("", "open", "success", "whole")
    for has_new in (False, True)
}


def _old_row(step: StepWrite) -> tuple[str, tuple[Any, ...]]:
    record = step.record
    if record.outcome is None:
        return "open", run_row(record)
    if is_plain_success(record):
        return "success", success_row(record)
    return "whole", run_row(record) + end_row(record)


def statement(
    write: StateWrite,
    steps: Sequence[StepWrite],
    fence: WorkerId,
    *,
    session: int,
    lease: float,
) -> Statement | None:
    """The statement that writes all of this, and gives a row if it did; None if there is none.

    There is one for what happens most: the workflow goes on in the hands of its owner, and of its
    steps one at most has changed, and one at most is new.

    Args:
        session: of the worker; see the schema.
        lease: how long the worker is taken for alive from now on, in seconds.
    """
    state = write.state
    if not is_progress_only(write.before, state):
        return None
    old, new = "", False
    values: tuple[Any, ...] = (lease, fence, session, *progress_state_row(state))
    values += (state.workflow_id, write.expected_epoch)
    # Changed ones come first, as in the text.
    for step in sorted(steps, key=_is_new):
        record = step.record
        if step.must_be_ready:
            return None  # it is found out too late: the workflow would be written
        if not step.is_new and not old:
            old, row = _old_row(step)
            values += (*row, step.workflow_id, record.number)
        elif step.is_new and not new and record.outcome is None and record.child_id is None:
            new = True
            values += command_row(step.workflow_id, record)[1:-1] + run_row(record)
        else:
            return None
    return _STATEMENTS[old, new], values


def _is_new(step: StepWrite) -> bool:
    return step.is_new

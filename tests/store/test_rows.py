"""The mapping of rows: every value comes back as it was, and nothing that changed is left out."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from perdure.core.commands import RunStep
from perdure.core.journal import StepRecord
from perdure.core.messages import SentEvent
from perdure.core.outcomes import Canceled, Failed, Outcome, Succeeded
from perdure.core.retry import RetryPlan
from perdure.core.workflow import Blocked, WorkflowHeader, WorkflowState
from perdure.errors import ErrorInfo
from perdure.store import rows
from perdure_sim.conformance.bench import ODD, run_step, sample_steps

ERROR = ErrorInfo(type="ValueError", message=ODD, traceback="a\nb", arguments="[1]")

HEADER = WorkflowHeader(
    workflow_id="a",
    name="w",
    arguments="{}",
    created_at=1,
    start_at=2,
    context="3",
    on_complete="done",
    parent_id="p",
    parent_number=4,
    depth=5,
    rules=6,
)
STATE = WorkflowState(
    header=HEADER,
    epoch=7,
    owner="me",
    position=8,
    stamp=9,
    started_at=10,
    next_number=11,
    timer_at=12,
    journal_bytes=14,
    takeovers=15,
)

#: One change of each field that has a column, apart from the header.
CHANGES: dict[str, dict[str, Any]] = {
    "status": {"status": "canceled", "outcome": Canceled()},
    "value": {"status": "success", "outcome": Succeeded("1")},
    "error": {"status": "failed", "outcome": Failed(ERROR)},
    "epoch": {"epoch": 107},
    "owner": {"owner": None},
    "position": {"position": 108},
    "stamp": {"stamp": 109},
    "started_at": {"started_at": 110},
    "ended_at": {"status": "canceled", "outcome": Canceled(), "ended_at": 1},
    "next_number": {"next_number": 111},
    "timer_at": {"timer_at": None},
    "wake_at": {"wake_at": 113},
    "journal_bytes": {"journal_bytes": 114},
    "takeovers": {"takeovers": 0},
    "blocked": {"blocked": Blocked(error=ERROR, count=1, retry_at=2)},
    "on_complete_error": {"on_complete_error": ERROR},
}


def whole_row(state: WorkflowState) -> tuple[Any, ...]:
    return rows.header_row(state.header) + rows.state_row(state)


@pytest.mark.parametrize("column", [None, *CHANGES])
def test_a_workflow_comes_back(column: str | None) -> None:
    """A state is the same after a way through its row, whatever is set in it."""
    state = replace(STATE, **CHANGES[column]) if column else STATE
    row = whole_row(state)
    assert len(row) == len(rows.HEADER_COLUMNS) + len(rows.STATE_COLUMNS)
    assert rows.state_from_row(row) == state


def test_each_column_of_a_state_has_its_change() -> None:
    """The table of changes above misses no column, so that the tests with it mean something."""
    assert list(CHANGES) == list(rows.STATE_COLUMNS)


@pytest.mark.parametrize("column", CHANGES)
def test_a_change_is_never_left_out(column: str) -> None:
    """The short update is taken only when no column that it lacks has changed."""
    after = replace(STATE, **CHANGES[column])
    assert rows.is_progress_only(STATE, after) is (column in rows.PROGRESS_STATE_COLUMNS)


def test_the_short_row_is_a_part_of_the_whole() -> None:
    """The columns of the short update have the same values there as in the whole one."""
    whole = dict(zip(rows.STATE_COLUMNS, rows.state_row(STATE), strict=True))
    short = zip(rows.PROGRESS_STATE_COLUMNS, rows.progress_state_row(STATE), strict=True)
    assert [(name, whole[name]) for name in rows.PROGRESS_STATE_COLUMNS] == list(short)


def test_nothing_is_left_out_without_a_before() -> None:
    """Who does not know what is stored writes everything."""
    assert not rows.is_progress_only(None, STATE)


@pytest.mark.parametrize("record", sample_steps(), ids=lambda each: f"step {each.number}")
def test_a_step_comes_back(record: StepRecord) -> None:
    """A step of each kind and state is the same after a way through its row."""
    row = rows.command_row("a", record) + rows.run_row(record) + rows.end_row(record)
    assert len(row) == len(rows.COMMAND_COLUMNS) + len(rows.PROGRESS_COLUMNS)
    assert rows.step_from_row(row) == record


def test_a_step_that_came_back_can_be_written_again() -> None:
    """Its retry plan is as good as a new one: rows are made with its hash."""
    record = run_step(0)
    plan = RetryPlan(max_attempts=3, initial_ms=70)
    record = replace(record, command=replace(record.command, retry=plan))
    row = (*rows.command_row("a", record), *rows.run_row(record), *rows.end_row(record))
    again = rows.step_from_row(row)
    assert rows.command_row("a", again) == row[:11]
    assert isinstance(again.command, RunStep)
    assert hash(again.command.retry) == hash(plan)


@pytest.mark.parametrize("outcome", [None, Succeeded("null"), Failed(ERROR), Canceled()])
def test_an_outcome_comes_back(outcome: Outcome | None) -> None:
    """Each outcome is the same after a way through its three columns."""
    assert rows.outcome_from(*rows.outcome_columns(outcome)) == outcome


@pytest.mark.parametrize("outcome", [None, Succeeded("1"), Failed(ERROR)])
def test_an_event_comes_back(outcome: Outcome | None) -> None:
    """An event is the same after a way through its row: only created, sent, sent as an error."""
    number = None if outcome is None else 0
    event = SentEvent(event_id="e", name=ODD, sequence=number, sent_at=number, outcome=outcome)
    row = (event.event_id, event.name, *rows.event_columns(event))
    assert rows.event_from_row(row) == event


SETTLED: dict[str, Any] = {"state": "settled", "outcome": Canceled(), "settled_at": 9}


@pytest.mark.parametrize(
    ("fields", "is_open"),
    [
        ({"state": "asked"}, True),
        ({"state": "started", "runner": "w", "attempt": 1}, True),
        (SETTLED, True),
        ({**SETTLED, "delivered_position": 1, "delivered_at": 1}, False),
        ({**SETTLED, "canceled_position": 1}, False),
    ],
)
def test_a_step_is_open_until_its_outcome_is_known(fields: dict[str, Any], is_open: bool) -> None:
    """A step belongs to the live part until the handler has learned, or given up, its outcome."""
    assert rows.is_open(run_step(0, **fields)) is is_open


def test_the_live_part_follows_from_the_steps() -> None:
    """What a state says about its open steps is counted from them, outcomes by time accepted."""
    live = [record for record in sample_steps() if rows.is_open(record)]
    state = rows.state_from_row(whole_row(STATE), live)
    assert list(state.live) == [record.number for record in live]
    assert state.settled == ((7, 9), (8, 8))
    assert state.awaiting == (5, 6)
    assert state.busy == 2

"""The journal as a replay reads it: deliveries in order, batches by content, and sizes."""

from __future__ import annotations

from typing import Any

from tests.core.playbook import await_event, ok, run, sleep

from perdure.core.commands import StepCommand
from perdure.core.journal import (
    Delivery,
    Journal,
    Started,
    StepEnded,
    StepRecord,
    Tick,
    TickRecord,
    command_bytes,
    outcome_bytes,
    text_bytes,
)
from perdure.core.limits import STEP_BYTES
from perdure.core.outcomes import Canceled, Failed, Succeeded
from perdure.errors import ErrorInfo


def record(number: int, command: StepCommand, at: int = 0, **fields: Any) -> StepRecord:
    """A step that was asked for at position `at`."""
    return StepRecord(
        number=number,
        command=command,
        asked_position=at,
        asked_at=0,
        asked_epoch=1,
        state="settled" if "outcome" in fields else "ready",
        **fields,
    )


def ended(number: int, position: int, value: str = "1") -> StepRecord:
    """A step whose outcome was delivered at `position`, ten times that late."""
    return record(
        number,
        run(),
        outcome=ok(value),
        settled_at=0,
        delivered_position=position,
        delivered_at=10 * position,
    )


# --- deliveries ---------------------------------------------------------------------------------


def test_facts_come_in_the_order_of_their_positions() -> None:
    """Start, outcomes and ticks, whatever the order of the rows; open steps give none."""
    journal = Journal(7, [ended(0, 3), ended(1, 1), record(2, run())], [TickRecord(2, 15)])
    assert list(journal) == [
        Delivery(0, 7, Started()),
        Delivery(1, 10, StepEnded(1, ok())),
        Delivery(2, 15, Tick(15)),
        Delivery(3, 30, StepEnded(0, ok())),
    ]
    assert len(journal) == 4


def test_an_outcome_that_was_not_delivered_is_no_fact_yet() -> None:
    """It is delivered after the recorded ones, by `next_fact`, not by the replay."""
    journal = Journal(7, [record(0, run(), outcome=ok(), settled_at=3)], [])
    assert list(journal) == [Delivery(0, 7, Started())]


def test_a_workflow_that_has_not_begun_has_an_empty_journal() -> None:
    """Not even a start."""
    assert list(Journal(None, (), ())) == []


# --- batches ------------------------------------------------------------------------------------


def test_a_batch_has_what_was_asked_for_at_its_position() -> None:
    """Steps and cancels of one position, and nothing of another."""
    steps = [record(0, run("a")), record(1, run("b"), 1), record(2, run("c"), canceled_position=1)]
    journal = Journal(7, steps, [])
    assert journal.batch(0).left() == ["step 0: action a {}", "step 2: action c {}"]
    assert journal.batch(1).left() == ["step 1: action b {}", "cancel of step 2"]
    assert journal.batch(2).left() == []


def test_a_record_is_found_by_content_and_taken_once() -> None:
    """In any order; of equal ones the first; None when there is none any more."""
    batch = Journal(7, [record(0, run("a")), record(1, run("b")), record(2, run("a"))], []).batch(0)
    found = [batch.take(run(name)) for name in ("b", "a", "a", "a", "other")]
    assert [None if step is None else step.number for step in found] == [1, 0, 2, None, None]
    assert batch.left() == []


def test_a_cancel_is_taken_once() -> None:
    """Only a recorded cancel of that number, and only the first time."""
    batch = Journal(7, [record(0, run(), canceled_position=1)], []).batch(1)
    assert [batch.take_cancel(number) for number in (5, 0, 0)] == [False, True, False]


def test_a_batch_is_made_anew_at_each_call() -> None:
    """Taking from one does not empty the journal."""
    journal = Journal(7, [record(0, run())], [])
    assert journal.batch(0).take(run()) is not None
    assert journal.batch(0).take(run()) is not None


# --- sizes --------------------------------------------------------------------------------------


def test_texts_are_measured_in_utf8() -> None:
    """Bytes as stored, not characters."""
    assert [text_bytes(text) for text in (None, "", "abc", "é", "日本", "😀")] == [0, 0, 3, 2, 6, 4]


def test_a_step_costs_its_row_its_name_and_its_arguments() -> None:
    """Also a step without arguments costs something."""
    assert command_bytes(run("name", arguments="[1,2]")) == STEP_BYTES + 4 + 5
    assert command_bytes(sleep(5)) == STEP_BYTES + len("sleep")
    assert command_bytes(await_event("e")) == STEP_BYTES + 1


def test_an_outcome_costs_its_texts() -> None:
    """A value its JSON, an error all that is kept of it, a cancel nothing."""
    error = ErrorInfo("Type", "message", "trace", "[1]")
    assert outcome_bytes(Succeeded('"é"')) == 4
    assert outcome_bytes(Failed(error)) == 4 + 7 + 5 + 3
    assert outcome_bytes(Canceled()) == 0

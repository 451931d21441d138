"""The transition: steps that another worker than the workflow's owner has started."""

from __future__ import annotations

import pytest
from tests.core.playbook import NOW, Playbook, after, ok, row, run, step, waiting

from perdure.core.commands import CancelStep
from perdure.core.effects import CancelAttempt, PutStep, RevokeAttempt, SetTimer
from perdure.core.messages import (
    Asked,
    AttemptEnded,
    AttemptStarted,
    Message,
    StepAdmitted,
    StepDue,
)
from perdure.core.transition import transition
from perdure.core.workflow import WorkflowState

ADMIT = StepAdmitted(number=0, runner="worker")


def taken(of: int = 1, *, epoch: int = 1) -> AttemptStarted:
    """Attempt `of` of step 0 was started by another worker than the owner."""
    return AttemptStarted(number=0, epoch=epoch, attempt=of, runner="other", started_at=NOW)


def ended() -> AttemptEnded:
    """Its first attempt returned."""
    return AttemptEnded(number=0, epoch=1, attempt=1, outcome=ok(), accepted_at=NOW)


def test_a_step_that_was_taken_is_started_elsewhere() -> None:
    """Its row is written already, so nothing is; its time is watched, and its outcome counts."""
    book = Playbook(waiting(run(timeout_ms=50)), now=NOW + 7)
    assert book >> taken() << SetTimer(NOW + 50, 0)
    record = step(book.state)
    assert (record.state, record.runner, record.attempt) == ("started", "other", 1)
    assert (record.started_at, record.started_epoch, record.due_at) == (NOW, 1, None)
    book.state.check()
    assert book >> ended() << row(0, outcome=ok(), runner=None)


@pytest.mark.parametrize("late", [taken(2), taken(epoch=2), taken(0)])
def test_a_taking_that_does_not_fit_changes_nothing(late: AttemptStarted) -> None:
    """Of another attempt, or from another owner's time."""
    assert Playbook(waiting(run())) >> late


def test_what_another_worker_runs_is_stopped_by_a_letter() -> None:
    """Nobody waits for it any more: its worker is told in the transaction that records it."""
    book = Playbook(after(waiting(run(timeout_ms=50)), taken()), now=NOW + 60)
    assert (
        book
        >> StepDue(number=0)
        << RevokeAttempt(0, "other")
        << row(0, state="settled", settled_at=NOW + 50)
        << CancelAttempt(0, epoch=1, attempt=1)
    )


def test_only_what_was_ready_may_have_been_taken() -> None:
    """The row of a ready action is written on condition that it still is; others always are."""

    def flags(state: WorkflowState, *messages: Message) -> list[bool]:
        decision = transition(after(state, *messages[:-1]), messages[-1], NOW)
        return [write.was_ready for write in decision.writes if isinstance(write, PutStep)]

    cancel = Asked(cancels=(CancelStep(0),))
    assert flags(waiting(run()), ADMIT) == [True]
    assert flags(waiting(run()), cancel) == [True]
    assert flags(waiting(run()), ADMIT, cancel) == [False]
    assert flags(waiting(run()), taken(), cancel) == [False]
    assert flags(waiting(run(kind="mutation")), ADMIT) == [False]

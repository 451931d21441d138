"""The transition: children, and steps that are cancelled."""

from __future__ import annotations

import pytest
from tests.core.playbook import (
    NOW,
    At,
    Playbook,
    after,
    asked,
    await_event,
    child,
    fresh,
    ok,
    row,
    sleep,
    waiting,
)

from perdure.core.commands import CancelStep, StepCommand
from perdure.core.effects import (
    CancelAttempt,
    CancelChild,
    SetTimer,
    StartChild,
)
from perdure.core.journal import Started
from perdure.core.messages import (
    Asked,
    AttemptEnded,
    AttemptLost,
    AttemptStarted,
    ChildEnded,
    FactDelivered,
    StepAdmitted,
    StepDue,
)
from perdure.core.outcomes import Canceled, Failed
from perdure.core.workflow import next_fact
from perdure.errors import ErrorInfo

BOOM = Failed(ErrorInfo("ValueError", "boom"))
ADMIT = StepAdmitted(number=0, runner="worker")


def ended(of: int = 1, *, epoch: int = 1, at: int = NOW, retry: bool = True) -> AttemptEnded:
    """Attempt `of` of step 0 returned."""
    return AttemptEnded(
        number=0, epoch=epoch, attempt=of, outcome=ok(), accepted_at=at, is_retryable=retry
    )


def failed(of: int = 1, *, at: int = NOW, retry: bool = True) -> AttemptEnded:
    """Attempt `of` of step 0 raised."""
    return AttemptEnded(
        number=0, epoch=1, attempt=of, outcome=BOOM, accepted_at=at, is_retryable=retry
    )


def taken(of: int = 1, *, epoch: int = 1) -> AttemptStarted:
    """Attempt `of` of step 0 was started by another worker than the owner."""
    return AttemptStarted(number=0, epoch=epoch, attempt=of, runner="other", started_at=NOW)


def lost(of: int = 1, *, epoch: int = 1) -> AttemptLost:
    """The worker of attempt `of` of step 0 died."""
    return AttemptLost(number=0, epoch=epoch, attempt=of, accepted_at=NOW)


#: A state whose step 0 is as the name says, and the words are due at `NOW + 10`.
SITUATIONS: dict[str, WorkflowState] = {
    "unknown": waiting(),
    "run_at": waiting(run(due_at=NOW + 10)),
    "sleep": waiting(sleep(NOW + 10)),
    "event": waiting(await_event(due_at=NOW + 10)),
    "child": waiting(child()),
    "mutation": waiting(run(kind="mutation")),
    "ready": waiting(run()),
    "started": after(waiting(run(timeout_ms=10)), ADMIT),
    "retried": after(waiting(run(timeout_ms=10, attempts=2)), ADMIT),
    "backoff": after(waiting(run(attempts=2, backoff_ms=10)), ADMIT, failed()),
    "settled": after(waiting(run()), ADMIT, ended()),
}


# --- children -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "id"), [(None, "w/0@1"), ("mine", "mine")])
def test_a_child_is_started_under_its_id(given: str | None, id: str) -> None:
    """An id that was not given is derived from workflow, step and epoch."""
    begun = after(fresh(), FactDelivered(fact=Started()))
    command = child(child_id=given)
    assert (
        Playbook(begun)
        >> asked(command)
        << StartChild(0, id, command)
        << row(0, is_new=True, state="asked", child_id=id, due_at=None)
    )


def test_only_its_own_child_settles_a_step() -> None:
    """The outcome of a child with another id (from before a restart) is dropped."""
    other = ChildEnded(number=0, child_id="w/0@0", outcome=ok("2"), accepted_at=NOW)
    own = ChildEnded(number=0, child_id="w/0@1", outcome=ok(), accepted_at=NOW + 1)
    assert (
        Playbook(waiting(child()))
        >> other
        >> own
        << row(0, state="settled", outcome=ok(), settled_at=NOW + 1)
        >> own
    )


# --- cancelling a step --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("situation", "told"),
    [
        ("run_at", []),
        ("sleep", []),
        ("event", []),
        ("ready", []),
        ("backoff", []),
        ("settled", []),
        ("started", [CancelAttempt(0, epoch=1, attempt=1)]),
    ],
)
def test_a_cancelled_step_ends_as_canceled(situation: str, told: list[object]) -> None:
    """The row keeps where the handler cancelled it; a running attempt is told; nothing follows."""
    book = Playbook(SITUATIONS[situation])
    book = (
        book
        >> Asked(cancels=(CancelStep(0),))
        << row(0, state="settled", outcome=Canceled(), canceled_position=0, due_at=None)
    )
    for effect in told:
        book = book << effect
    assert book >> ended() >> StepDue(number=0) >> ADMIT
    assert (book.state.live, next_fact(book.state, NOW + 99)) == ({}, None)


def test_a_cancelled_child_step_cancels_the_child() -> None:
    """The child is canceled in the same transaction, and what it reports is dropped."""
    assert (
        Playbook(waiting(child()))
        >> Asked(cancels=(CancelStep(0),))
        << CancelChild(0, "w/0@1")
        << row(0, state="settled", outcome=Canceled(), canceled_position=0)
        >> ChildEnded(number=0, child_id="w/0@1", outcome=ok(), accepted_at=NOW)
    )


def test_a_step_may_be_cancelled_in_the_reaction_that_asked_for_it() -> None:
    """Asked and cancelled at once: both are recorded, with the same position."""
    begun = after(fresh(), FactDelivered(fact=Started()))
    book = Playbook(begun)
    commands: tuple[tuple[int, StepCommand], ...] = ((0, sleep(NOW + 5)), (1, await_event()))
    assert (
        book
        >> Asked(steps=commands, cancels=(CancelStep(0),))
        << row(0, is_new=True, asked_position=0)
        << row(0, outcome=Canceled(), canceled_position=0)
        << row(1, is_new=True)
        << SetTimer(NOW + 5, 0)
        >> At(NOW + 5)
        >> StepDue(number=0)
    )
    assert (book.state.next_number, set(book.state.live)) == (2, {1})

"""The transition: how workflows end, or are blocked: returned, canceled, failed, overfull."""

from __future__ import annotations

import pytest
from tests.core.playbook import (
    NOW,
    Playbook,
    after,
    asked,
    await_event,
    child,
    fresh,
    ok,
    outputs,
    row,
    run,
    sent,
    sleep,
    step,
    waiting,
)

from perdure.core.commands import CancelStep
from perdure.core.effects import (
    CallOnComplete,
    CancelAttempt,
    CancelChild,
    TellParent,
    WarnJournalSize,
)
from perdure.core.journal import Started, StepEnded, Tick, command_bytes
from perdure.core.limits import TICK_BYTES, Limits
from perdure.core.messages import (
    Asked,
    AttemptEnded,
    AttemptLost,
    AttemptStarted,
    CancelWorkflow,
    ChildEnded,
    Ended,
    FactDelivered,
    FailWorkflow,
    FunctionEnded,
    HandlerBlocked,
    Message,
    StepAdmitted,
    StepDue,
)
from perdure.core.outcomes import Canceled, Failed, Outcome
from perdure.core.transition import BLOCKED_RETRY_MS_MAX, transition
from perdure.core.workflow import WorkflowState, next_fact
from perdure.errors import ErrorInfo

ERROR = ErrorInfo("ValueError", "boom")
ADMIT = StepAdmitted(number=0, runner="worker")
FULL = {"on_complete": "done", "context": "7", "parent_id": "p", "parent_number": 3}


def told(outcome: Outcome) -> list[object]:
    """What a workflow with `FULL` header writes when it ends."""
    return [CallOnComplete(outcome), TellParent("p", 3, outcome)]


# --- ends ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "outcome"),
    [
        (Ended(outcome=ok()), ok()),
        (Ended(outcome=Failed(ERROR)), Failed(ERROR)),
        (CancelWorkflow(epoch=9), Canceled()),
        (FailWorkflow(error=ERROR), Failed(ERROR)),
    ],
)
def test_an_end_is_recorded_and_told(message: Message, outcome: Outcome) -> None:
    """However it ends: outcome, status and time in the state; on_complete and parent are told."""
    book = Playbook(waiting(**FULL), now=NOW + 5) >> message
    for write in told(outcome):
        book = book << write
    assert book
    state = book.state
    assert (state.outcome, state.status, state.ended_at) == (outcome, outcome.kind, NOW + 5)
    assert (state.owner, state.timer_at, state.wake_at) == (None, None, None)


def test_nobody_is_told_who_did_not_ask() -> None:
    """Without on_complete and parent an end writes nothing beside the state."""
    assert Playbook(waiting()) >> Ended(outcome=ok())


def test_the_end_cancels_what_is_open() -> None:
    """Open steps end as canceled; running attempts and children are told."""
    state = waiting(run(), run("g"), child(), sleep(NOW + 9), await_event())
    state = after(state, ADMIT)
    book = Playbook(state)
    assert (
        book
        >> Ended(outcome=ok())
        << row(0, state="settled", outcome=Canceled(), runner=None, canceled_position=None)
        << row(1, state="settled", outcome=Canceled())
        << CancelChild(2, "w/2@1")
        << row(2, state="settled", outcome=Canceled())
        << row(3, state="settled", outcome=Canceled(), due_at=None)
        << row(4, state="settled", outcome=Canceled(), event_id=None)
        << CancelAttempt(0, epoch=1, attempt=1)
    )
    assert (book.state.live, book.state.busy, book.state.awaiting) == ({}, 0, ())


def test_an_outcome_that_was_not_delivered_is_kept() -> None:
    """A step that settled before the end keeps its true outcome."""
    state = after(
        waiting(run()),
        ADMIT,
        AttemptEnded(number=0, epoch=1, attempt=1, outcome=ok(), accepted_at=NOW),
    )
    assert Playbook(state) >> CancelWorkflow(epoch=2)


def test_the_last_reaction_may_ask_and_cancel() -> None:
    """What a handler asks for as it returns is recorded and canceled with the rest."""
    ended = Ended(outcome=ok(), steps=((1, await_event()),), cancels=(CancelStep(0),))
    book = Playbook(waiting(sleep(NOW + 9)))
    assert (
        book
        >> ended
        << row(0, outcome=Canceled(), canceled_position=0)
        << row(1, is_new=True, state="asked")
        << row(1, outcome=Canceled(), canceled_position=None)
    )
    assert book.state.next_number == 2


def test_a_cancel_takes_the_new_epoch_and_keeps_unconsumed_events() -> None:
    """The epoch fences whoever still works on it; events stay for a restart."""
    state = after(waiting(), sent(1), CancelWorkflow(epoch=9))
    assert (state.epoch, len(state.events)) == (9, 1)


def test_a_workflow_that_has_not_begun_can_be_canceled() -> None:
    """Canceled before its start it never begins."""
    state = after(fresh(start_at=NOW + 9), CancelWorkflow(epoch=2))
    assert (state.status, next_fact(state, NOW + 9)) == ("canceled", None)


@pytest.mark.parametrize(
    "message",
    [
        FactDelivered(fact=StepEnded(0, ok())),
        asked(run(), first=1),
        Ended(outcome=Failed(ERROR)),
        HandlerBlocked(error=ERROR),
        ADMIT,
        FunctionEnded(number=0, outcome=ok()),
        AttemptEnded(number=0, epoch=1, attempt=1, outcome=ok(), accepted_at=NOW),
        AttemptLost(number=0, epoch=1, attempt=1, accepted_at=NOW),
        AttemptStarted(number=0, epoch=1, attempt=1, runner="other", started_at=NOW),
        sent(1),
        ChildEnded(number=0, child_id="w/0@1", outcome=ok(), accepted_at=NOW),
        StepDue(number=0),
        CancelWorkflow(epoch=9),
        FailWorkflow(error=ERROR),
    ],
)
def test_nothing_changes_after_the_end(message: Message) -> None:
    """An ended workflow takes no message: its outcome is recorded, and told, once."""
    state = after(waiting(run(), **FULL), ADMIT, Ended(outcome=ok()))
    decision = transition(state, message, NOW + 9)
    assert (decision.state, outputs(decision)) == (state, [])


# --- limits -------------------------------------------------------------------------------------


def test_the_journal_is_measured() -> None:
    """Commands, outcomes and ticks add to the size; a delivery adds nothing."""
    command = run(arguments='"12345678"')
    state = waiting(command)
    assert state.journal_bytes == command_bytes(command)
    ended = AttemptEnded(number=0, epoch=1, attempt=1, outcome=ok('"é"'), accepted_at=NOW)
    state = after(state, ADMIT, ended)
    assert state.journal_bytes == command_bytes(command) + 4
    state = after(state, FactDelivered(fact=StepEnded(0, ok('"é"'))))
    state = after(state, Asked(timer_at=NOW), FactDelivered(fact=Tick(NOW)))
    assert state.journal_bytes == command_bytes(command) + 4 + TICK_BYTES


def test_an_overfull_journal_fails_the_workflow() -> None:
    """Over the limit it fails with LimitExceeded, which names limit, size and remedy."""
    size = command_bytes(run())
    begun = after(fresh(), FactDelivered(fact=Started()))
    fits = transition(begun, asked(run()), NOW, Limits(journal_bytes=size)).state
    assert fits.status == "in_progress"
    over = transition(begun, asked(run()), NOW, Limits(journal_bytes=size - 1))
    over.state.check()
    assert isinstance(over.state.outcome, Failed)
    error = over.state.outcome.error
    assert error.type == "LimitExceeded"
    assert f"{size} bytes" in error.message
    assert f"limit of {size - 1}" in error.message


def test_a_workflow_that_ends_in_the_reaction_that_overfills_its_journal_has_ended() -> None:
    """It grows no more, so its own outcome stands, however large that is, or what it left open."""
    limits = Limits(journal_bytes=1)
    begun = after(fresh(), FactDelivered(fact=Started()))
    ended = Ended(steps=((0, run()),), outcome=ok('"much more than a byte"'))
    state = transition(begun, ended, NOW, limits).state
    state.check()
    assert state.outcome == ok('"much more than a byte"')
    assert state.journal_bytes > limits.journal_bytes


def test_half_a_journal_is_warned_about_once() -> None:
    """The effect comes with the message that passes one half, and with no other."""
    size = command_bytes(run())
    begun = after(fresh(), FactDelivered(fact=Started()))
    warnings: list[object] = []
    state: WorkflowState = begun
    for number in range(4):
        decision = transition(
            state, asked(run(), first=number), NOW, Limits(journal_bytes=5 * size)
        )
        state = decision.state
        warnings += [e for e in decision.effects if isinstance(e, WarnJournalSize)]
    assert warnings == [WarnJournalSize(3 * size)]


# --- blocked ------------------------------------------------------------------------------------


def test_a_blocked_workflow_is_released_and_tried_again_later() -> None:
    """In progress, without an owner, with the error and the time of the next try; no writes."""
    book = Playbook(waiting(run()), now=NOW + 5)
    assert book >> HandlerBlocked(error=ERROR)
    state = book.state
    assert state.status == "in_progress"
    assert (state.owner, state.wake_at) == (None, NOW + 1_005)
    assert state.blocked is not None
    assert (state.blocked.error, state.blocked.count) == (ERROR, 1)
    assert step(state).state == "ready"


def test_the_wait_of_a_blocked_workflow_doubles_up_to_ten_minutes() -> None:
    """1 s, 2 s, 4 s, … and never more than 10 min, however often it is tried."""
    state, waits = waiting(), []
    for _ in range(40):
        state = after(state, HandlerBlocked(error=ERROR))
        assert state.wake_at is not None
        waits.append(state.wake_at - NOW)
    assert waits[:4] == [1_000, 2_000, 4_000, 8_000]
    assert set(waits[10:]) == {BLOCKED_RETRY_MS_MAX}


def test_progress_ends_a_block() -> None:
    """A delivered fact forgets the error, so that the next block starts at one second again."""
    state = after(waiting(), HandlerBlocked(error=ERROR), HandlerBlocked(error=ERROR))
    state = after(state, sent(1), asked(await_event()))
    state = after(state, FactDelivered(fact=StepEnded(0, ok())))
    assert state.blocked is None
    state = after(state, HandlerBlocked(error=ERROR))
    assert state.wake_at == NOW + 1_000


def test_a_blocked_workflow_still_takes_outcomes_and_cancels() -> None:
    """What happens outside is recorded meanwhile; cancel ends it as any other."""
    state = after(waiting(run()), ADMIT, HandlerBlocked(error=ERROR))
    ended = AttemptEnded(number=0, epoch=1, attempt=1, outcome=ok(), accepted_at=NOW)
    state = after(state, ended)
    assert step(state).outcome == ok()
    state = after(state, CancelWorkflow(epoch=2))
    assert (state.status, state.blocked) == ("canceled", None)

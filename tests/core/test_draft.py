"""What a draft keeps of its own: the fields that are derived from the steps."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.core.playbook import NOW, await_event, ok, run, waiting

from perdure.core.draft import Draft
from perdure.core.effects import PutStep
from perdure.core.journal import StepRecord
from perdure.core.limits import Limits
from perdure.core.outcomes import Canceled
from perdure.core.workflow import WorkflowState


def settled(draft: Draft, number: int, at: int) -> StepRecord:
    """Put the outcome of a step, accepted at `at`; its record."""
    record = draft.step(number)
    assert record is not None
    new = replace(record, state="settled", outcome=ok(), settled_at=at)
    draft.put(record, new)
    return new


def draft_of(state: WorkflowState) -> Draft:
    return Draft.of(state, NOW, Limits())


def test_without_a_change_the_state_is_the_same_object() -> None:
    """A message that means nothing costs no copy."""
    state = waiting(run())
    decision = draft_of(state).decision()
    assert decision.state is state
    assert (decision.writes, decision.effects, decision.ready) == ((), (), ())


def test_the_original_stays_as_it_is() -> None:
    """A draft works on copies: the state that it began with is a value."""
    state = waiting(run(), await_event())
    twin = replace(state, live=dict(state.live))
    draft = draft_of(state)
    settled(draft, 0, NOW)
    changed = draft.decision().state
    changed.check()
    assert state == twin != changed


def test_outcomes_queue_by_their_time_then_by_their_coming() -> None:
    """A late one goes to its place; of two at one time the first stays first."""
    draft = draft_of(waiting(run(), run(), run(), run()))
    for number, at in ((3, NOW + 2), (0, NOW + 2), (1, NOW + 1), (2, NOW + 2)):
        settled(draft, number, at)
    state = draft.decision().state
    state.check()
    assert [number for _, number in state.settled] == [1, 3, 0, 2]


def test_a_delivered_step_leaves_the_queue_and_the_open_ones() -> None:
    """Whichever of them it is, and its row is written."""
    draft = draft_of(waiting(run(), run()))
    records = [settled(draft, number, NOW) for number in (0, 1)]
    final = replace(records[1], delivered_position=1, delivered_at=NOW)
    draft.put(records[1], final)
    decision = draft.decision()
    decision.state.check()
    assert decision.state.settled == ((NOW, 0),)
    assert set(decision.state.live) == {0}
    assert decision.writes[-1] == PutStep(final)


def test_waits_for_events_are_counted_while_they_are_open() -> None:
    """One that is settled is awaited no more."""
    draft = draft_of(waiting(await_event(), await_event()))
    settled(draft, 0, NOW)
    state = draft.decision().state
    state.check()
    assert state.awaiting == (1,)


def test_a_step_cannot_go_back() -> None:
    """An edge that is not in the table is a fault of the engine's, and named."""
    draft = draft_of(waiting(run()))
    record = settled(draft, 0, NOW)
    with pytest.raises(AssertionError, match="settled"):
        draft.put(record, replace(record, state="started", outcome=None))


def test_a_dropped_step_is_written_and_forgotten() -> None:
    """Its last row says that it was canceled; no outcome of it waits for the handler."""
    draft = draft_of(waiting(run()))
    record = draft.step(0)
    assert record is not None
    draft.drop(record)
    decision = draft.decision()
    assert (decision.state.live, decision.state.settled) == ({}, ())
    (write,) = decision.writes
    assert isinstance(write, PutStep)
    assert (write.record.state, write.record.outcome) == ("settled", Canceled())

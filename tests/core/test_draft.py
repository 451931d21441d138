"""What a draft keeps of its own: the fields that are derived from the steps."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.core.playbook import NOW, await_event, ok, run, sleep, waiting

from perdure.core.draft import Draft
from perdure.core.effects import PutStep
from perdure.core.journal import StepRecord
from perdure.core.limits import Limits
from perdure.core.outcomes import Canceled
from perdure.core.workflow import WorkflowState, next_wake


def settled(draft: Draft, number: int, at: int) -> StepRecord:
    """Put the outcome of a step, accepted at `at`; its record."""
    record = draft.live[number]
    new = replace(record, state="settled", outcome=ok(), settled_at=at)
    draft.put(record, new)
    return new


def draft_of(state: WorkflowState) -> Draft:
    return Draft.of(state, NOW, Limits())


def test_without_a_change_the_state_is_the_same_object() -> None:
    """A message that means nothing costs no copy."""
    state = waiting(run())
    decision = draft_of(state).decision(state)
    assert decision.state is state
    assert (decision.writes, decision.effects, decision.ready) == ((), (), ())


def test_the_original_stays_as_it_is() -> None:
    """A draft works on copies: the state that it began with is a value."""
    state = waiting(run(), await_event())
    twin = replace(state, live=dict(state.live))
    draft = draft_of(state)
    settled(draft, 0, NOW)
    changed = draft.state()
    changed.check()
    assert state == twin != changed


def test_outcomes_queue_by_their_time_then_by_their_coming() -> None:
    """A late one goes to its place; of two at one time the first stays first."""
    draft = draft_of(waiting(run(), run(), run(), run()))
    for number, at in ((3, NOW + 2), (0, NOW + 2), (1, NOW + 1), (2, NOW + 2)):
        settled(draft, number, at)
    state = draft.state()
    state.check()
    assert [number for _, number in state.settled] == [1, 3, 0, 2]


def test_a_delivered_step_leaves_the_queue_and_the_open_ones() -> None:
    """Whichever of them it is, and its row is written."""
    draft = draft_of(waiting(run(), run()))
    records = [settled(draft, number, NOW) for number in (0, 1)]
    final = replace(records[1], delivered_position=1, delivered_at=NOW)
    draft.put(records[1], final)
    state = draft.state()
    state.check()
    assert state.settled == ((NOW, 0),)
    assert set(state.live) == {0}
    assert draft.writes[-1] == PutStep(final)


def test_waits_for_events_are_counted_while_they_are_open() -> None:
    """One that is settled is awaited no more."""
    draft = draft_of(waiting(await_event(), await_event()))
    settled(draft, 0, NOW)
    state = draft.state()
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
    draft.drop(draft.live[0])
    state = draft.state()
    assert (state.live, state.settled) == ({}, ())
    (write,) = draft.writes
    assert isinstance(write, PutStep)
    assert (write.record.state, write.record.outcome) == ("settled", Canceled())


def test_a_draft_has_the_fields_of_a_state_in_their_order() -> None:
    """They are copied as tuples, both ways."""
    fields = WorkflowState.__struct_fields__
    first = Draft.__struct_fields__.index(fields[0])
    assert Draft.__struct_fields__[first : first + len(fields)] == fields
    state = replace(waiting(run(), await_event()), takeovers=2, timer_at=NOW, owner="w")
    assert draft_of(state).state() == state


def test_a_worker_that_lives_clears_the_count_of_those_that_died() -> None:
    """Only `takeovers` changes."""
    state = waiting(run())
    draft = draft_of(replace(state, takeovers=3))
    draft.survive()
    assert draft.state() == state


def test_what_is_given_up_has_no_owner_and_knows_when_to_wake() -> None:
    """Its row says when somebody should take it up again."""
    draft = draft_of(replace(waiting(sleep(NOW + 90_000)), owner="w"))
    draft.give_up(next_wake(draft))
    state = draft.state()
    state.check()
    assert (state.owner, state.wake_at) == (None, NOW + 90_000)

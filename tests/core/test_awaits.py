"""Which open step takes an event, without a search."""

from __future__ import annotations

from msgspec.structs import replace
from tests.core.playbook import after, await_event, await_id, sent, waiting

from perdure.core.awaits import Awaits
from perdure.core.messages import Asked, CancelWorkflow, SentEvent
from perdure.core.workflow import WorkflowState, match_event

OPEN = waiting(await_id("mine"), await_event("e"), await_event("f"), await_event("e"))


def event(name: str, event_id: str = "any") -> SentEvent:
    return SentEvent(event_id=event_id, name=name)


def without(state: WorkflowState, number: int) -> WorkflowState:
    """The state after a step is gone, as far as `live` tells."""
    return replace(state, live={n: r for n, r in state.live.items() if n != number})


def test_an_event_is_for_the_step_that_awaits_it_by_id_else_by_name_the_longest() -> None:
    """To ask changes nothing."""
    awaits = OPEN.awaits()
    for _ in range(2):
        assert awaits.taker(event("e"), OPEN.live) == 1
        assert awaits.taker(event("f"), OPEN.live) == 2
        assert awaits.taker(event("e", "mine"), OPEN.live) == 0
        assert awaits.taker(event("g"), OPEN.live) is None
    assert awaits.waiting_for("mine", OPEN.live) == 0
    assert awaits.waiting_for("any", OPEN.live) is None


def test_each_step_takes_one_event() -> None:
    """By name one after the other; by id once, and then by name."""
    awaits = OPEN.awaits()
    assert [awaits.take(event("e"), OPEN.live) for _ in range(3)] == [1, 3, None]
    assert [awaits.take(event("f", "mine"), OPEN.live) for _ in range(3)] == [0, 2, None]


def test_steps_that_have_ended_are_passed_over() -> None:
    """Nobody tells of them."""
    awaits = OPEN.awaits()
    less = without(without(OPEN, 0), 1)
    assert awaits.taker(event("e"), less.live) == 3
    assert awaits.take(event("f", "mine"), less.live) == 2
    assert awaits.waiting_for("mine", less.live) is None


def test_a_further_step_waits_behind_the_others() -> None:
    """Also where none waited for the name before."""
    awaits = Awaits((1,), OPEN.live)
    awaits.add(OPEN.live[2])
    awaits.add(OPEN.live[3])
    found = [awaits.take(event(name), OPEN.live) for name in ("e", "f", "e")]
    assert found == [1, 2, 3]


def test_a_stale_id_leaves_its_event_to_the_name() -> None:
    """The await by id has ended; a step that waits for the event's name takes it."""
    awaits = OPEN.awaits()
    less = without(OPEN, 0)
    assert [awaits.take(event("e", "mine"), less.live) for _ in range(2)] == [1, 3]


def test_a_workflow_that_has_ended_takes_nothing() -> None:
    """Its events are kept, for a restart."""
    state = after(waiting(await_event()), sent(1), Asked(), CancelWorkflow(epoch=2))
    assert state.events
    assert match_event(state) is None

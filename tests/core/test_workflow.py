"""The state of a workflow: what comes next, when it wakes or is parked, its invariants."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from tests.core.playbook import (
    NOW,
    after,
    await_event,
    await_id,
    child,
    fresh,
    ok,
    run,
    sent,
    sleep,
    step,
    waiting,
)

from perdure.core.effects import SetTimer
from perdure.core.journal import Fact, Started, StepEnded, Tick
from perdure.core.messages import (
    Asked,
    AttemptEnded,
    AttemptLost,
    CancelWorkflow,
    EventSent,
    FactDelivered,
    SentEvent,
    StepAdmitted,
    StepDue,
)
from perdure.core.outcomes import Canceled
from perdure.core.workflow import (
    PARK_AFTER_MS,
    WorkflowState,
    due_timers,
    is_parkable,
    match_event,
    next_fact,
    next_wake,
)

LATE = NOW + 1_000


def finished(state: WorkflowState, number: int, at: int) -> WorkflowState:
    """The action `number` runs and reports at `at`."""
    state = after(state, StepAdmitted(number=number, runner="w1"))
    ended = AttemptEnded(number=number, epoch=1, attempt=1, outcome=ok(), accepted_at=at)
    return after(state, ended)


def facts(state: WorkflowState, now: int) -> list[Fact]:
    """All that is delivered at `now`, by a handler that asks for nothing more."""
    found = []
    while (fact := next_fact(state, now)) is not None:
        found.append(fact)
        state = after(state, FactDelivered(fact=fact), now=now)
    return found


# --- which fact comes next ----------------------------------------------------------------------


def test_the_start_comes_first_and_not_before_its_time() -> None:
    """A scheduled workflow starts at its time; nothing is delivered before."""
    state = fresh(start_at=NOW + 5)
    assert next_fact(state, NOW + 4) is None
    assert next_fact(state, NOW + 5) == Started()


def test_outcomes_come_in_the_order_in_which_they_were_accepted() -> None:
    """Not by number, and not by when they were seen."""
    state = finished(finished(waiting(run(), run()), 0, NOW + 9), 1, NOW + 3)
    assert facts(state, LATE) == [StepEnded(1, ok(), 1), StepEnded(0, ok(), 1)]


def test_of_outcomes_accepted_at_once_the_first_seen_comes_first() -> None:
    """A tie among outcomes keeps the order in which they were reported."""
    state = finished(finished(waiting(run(), run()), 1, NOW + 3), 0, NOW + 3)
    assert facts(state, LATE) == [StepEnded(1, ok(), 1), StepEnded(0, ok(), 1)]


@pytest.mark.parametrize(("event_at", "first"), [(NOW + 4, 1), (NOW + 5, 0), (NOW + 6, 0)])
def test_an_event_counts_from_when_it_was_sent(event_at: int, first: int) -> None:
    """Sent before the outcome was accepted it comes first; on a tie the outcome does."""
    state = finished(waiting(run(), await_event()), 0, NOW + 5)
    state = after(state, sent(1, at=event_at))
    # An event is no attempt.
    assert facts(state, LATE)[0] == StepEnded(first, ok(), attempts=1 - first)
    assert len(facts(state, LATE)) == 2


@pytest.mark.parametrize(
    ("timer_at", "expected"),
    [
        (NOW + 4, [Tick(NOW + 4), StepEnded(0, ok(), 1)]),
        (NOW + 5, [StepEnded(0, ok(), 1), Tick(LATE)]),
        (NOW + 6, [StepEnded(0, ok(), 1), Tick(LATE)]),
        (LATE + 1, [StepEnded(0, ok(), 1)]),
    ],
)
def test_a_timer_counts_from_when_it_was_due(timer_at: int, expected: list[Fact]) -> None:
    """Due before the outcome it fires first, on a tie the outcome comes first.

    A tick ahead of a fact says the time of its timer, so that it fires nothing that is due after
    the fact; one with nothing behind it says the present time.
    """
    state = after(finished(waiting(run()), 0, NOW + 5), Asked(timer_at=timer_at))
    assert facts(state, LATE) == expected


def test_a_timer_counts_against_an_event_as_well() -> None:
    """A timer due before the event was sent comes first."""
    state = after(waiting(await_event()), sent(1, at=NOW + 5), Asked(timer_at=NOW + 4))
    assert facts(state, LATE) == [Tick(NOW + 4), StepEnded(0, ok())]


def test_a_tick_never_says_an_earlier_time_than_the_last_fact() -> None:
    """A timer that was set into the past, or a clock that went back, does not turn time back."""
    state = replace(after(waiting(), Asked(timer_at=NOW - 50)), stamp=NOW + 7)
    assert next_fact(state, NOW) == Tick(NOW + 7)


def test_nothing_comes_when_it_waits_or_has_ended() -> None:
    """No fact for a workflow that waits for others, and none for one that ended."""
    state = waiting(run(), await_event())
    assert next_fact(state, LATE) is None
    assert next_fact(after(finished(state, 0, NOW), CancelWorkflow(epoch=2)), LATE) is None


# --- events and waits ---------------------------------------------------------------------------


def test_each_wait_is_matched_with_its_event() -> None:
    """By name to the longest waiting, by id to that very event; created ones do not count."""
    made = EventSent(event=SentEvent(event_id="made", name="e"))
    state = after(waiting(), made, sent(1, value="1"), sent(2, value="2"), sent(3, "other"))
    commands = (await_id("e2"), await_event(), await_event())
    state = after(state, Asked(steps=tuple(enumerate(commands))))
    queue = state.queue()
    pairs = []
    while (found := queue.first(state.live)) is not None:
        pairs.append((found[0].event_id, found[1]))
        queue.remove(found[0], state.live)
        state = replace(state, live={n: r for n, r in state.live.items() if n != found[1]})
    assert pairs == [("e1", 1), ("e2", 0)]


def test_no_match_without_a_wait_or_an_event() -> None:
    """Either alone is no match."""
    assert match_event(after(waiting(), sent(1))) is None
    assert match_event(waiting(await_event())) is None


# --- waking -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "at"),
    [
        (fresh(start_at=NOW + 7), NOW + 7),
        (waiting(), None),
        (waiting(await_event(), child()), None),
        (waiting(sleep(NOW + 9), await_event(due_at=NOW + 4)), NOW + 4),
        (after(waiting(sleep(NOW + 9)), Asked(timer_at=NOW + 3)), NOW + 3),
        (
            after(waiting(run(timeout_ms=6)), StepAdmitted(number=0, runner="w1")),
            NOW + 6,
        ),
        (waiting(run(due_at=NOW + 2)), NOW + 2),
    ],
)
def test_it_wakes_at_its_earliest_time(state: WorkflowState, at: int | None) -> None:
    """Starts, sleeps, time-outs, deadlines and the handler's own timers; None waits for others."""
    assert next_wake(state) == at


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (waiting(), True),
        (waiting(await_event()), True),
        (waiting(child()), True),
        (waiting(sleep(NOW + PARK_AFTER_MS + 1)), True),
        (waiting(sleep(NOW + PARK_AFTER_MS)), False),
        (waiting(run()), False),
        (after(waiting(run()), StepAdmitted(number=0, runner="w1")), False),
        (finished(waiting(run()), 0, NOW), False),
        (after(waiting(await_event()), sent(1)), False),
        (after(waiting(await_event()), sent(1, "other")), True),
        (after(waiting(), CancelWorkflow(epoch=2)), False),
        (fresh(), False),
        (fresh(start_at=NOW + PARK_AFTER_MS + 1), True),
    ],
)
def test_only_what_just_waits_is_parked(state: WorkflowState, expected: bool) -> None:
    """Parkable: nothing runs, nothing is ready, nothing is to be delivered, nothing due soon."""
    assert is_parkable(state, NOW) is expected


def test_all_timers_can_be_derived_from_the_state() -> None:
    """After a crash the same timers are set again: for each step that waits for a time."""
    state = waiting(
        sleep(NOW + 1),
        run(due_at=NOW + 2),
        run(timeout_ms=3),
        await_event(due_at=NOW + 4),
        await_event(),
        child(),
        run(attempts=2, backoff_ms=5),
        run(),
    )
    for number in (2, 6):
        state = after(state, StepAdmitted(number=number, runner="w1"))
    failure = AttemptEnded(
        number=6, epoch=1, attempt=1, outcome=Canceled(), accepted_at=NOW, is_retryable=True
    )
    state = after(state, Asked(timer_at=NOW + 6), StepDue(number=0), now=NOW)
    assert due_timers(state) == [
        SetTimer(NOW + 1, 0),
        SetTimer(NOW + 2, 1),
        SetTimer(NOW + 3, 2),
        SetTimer(NOW + 4, 3),
        SetTimer(NOW + 6),
    ]
    assert due_timers(after(state, failure)) == due_timers(state), "settled: it waits for no time"


def test_a_backoff_has_a_timer() -> None:
    """A step between two attempts is woken at the end of its backoff."""
    state = after(waiting(run(attempts=2, backoff_ms=5)), StepAdmitted(number=0, runner="w1"))
    state = after(state, AttemptLost(number=0, epoch=1, attempt=1, accepted_at=NOW))
    assert due_timers(state) == [SetTimer(NOW + 5, 0)]
    assert next_wake(state) == NOW + 5


# --- invariants ---------------------------------------------------------------------------------

HEALTHY = finished(waiting(run(), await_event(), run()), 0, NOW)


@pytest.mark.parametrize(
    "changes",
    [
        {"next_number": 2},
        {"live": {**HEALTHY.live, 0: step(HEALTHY, 1)}},
        {"settled": ()},
        {"settled": ((NOW, 0), (NOW, 2))},
        {"awaiting": ()},
        {"busy": 0},
        {"live": {**HEALTHY.live, 0: replace(step(HEALTHY), delivered_position=3)}},
        {"status": "success"},
        {"outcome": ok()},
        {"ended_at": NOW},
        {"position": -1},
        {"started_at": None},
        {"status": "canceled", "outcome": Canceled(), "ended_at": NOW},
    ],
)
def test_a_broken_state_is_noticed(changes: dict[str, Any]) -> None:
    """`check` passes for a state made by transitions and fails for one that contradicts itself."""
    HEALTHY.check()
    with pytest.raises(AssertionError):
        replace(HEALTHY, **changes).check()


def test_settled_steps_out_of_order_are_noticed() -> None:
    """The queue of outcomes is by the time of acceptance."""
    state = finished(HEALTHY, 2, NOW + 5)
    with pytest.raises(AssertionError):
        replace(state, settled=tuple(reversed(state.settled))).check()

"""Which event is delivered next, and to which step, without a search."""

from __future__ import annotations

import random

import pytest
from msgspec.structs import replace
from tests.core.playbook import after, await_event, await_id, sent, waiting

from perdure.core.awaits import Awaits, Queue, is_for_created
from perdure.core.commands import AwaitEvent
from perdure.core.journal import StepRecord
from perdure.core.messages import Asked, CancelWorkflow, SentEvent
from perdure.core.outcomes import Succeeded
from perdure.core.workflow import WorkflowState, match_event

OPEN = waiting(await_id("mine"), await_event("e"), await_event("f"), await_event("e"))


def event(name: str, event_id: str = "any") -> SentEvent:
    return SentEvent(event_id=event_id, name=name)


def without(state: WorkflowState, number: int) -> WorkflowState:
    """The state after a step is gone, as far as `live` tells."""
    return replace(state, live={n: r for n, r in state.live.items() if n != number})


@pytest.mark.parametrize(
    ("waits_before", "queued", "expected"),
    [(0, 0, True), (0, 2, True), (1, 0, False), (1, 1, True), (3, 2, False), (3, 4, True)],
)
def test_a_send_by_name_is_for_a_created_event_if_all_who_wait_longer_are_served(
    waits_before: int, queued: int, expected: bool
) -> None:
    """Else it is a new event, for the first of those."""
    assert is_for_created(waits_before, queued) is expected


def test_an_event_is_for_the_step_that_awaits_it_by_id_else_by_name_the_longest() -> None:
    """To ask changes nothing."""
    awaits = Awaits(OPEN.awaiting, OPEN.live)
    for _ in range(2):
        assert awaits.taker(event("e"), OPEN.live) == 1
        assert awaits.taker(event("f"), OPEN.live) == 2
        assert awaits.taker(event("e", "mine"), OPEN.live) == 0
        assert awaits.taker(event("g"), OPEN.live) is None
    assert awaits.waiting_for("mine", OPEN.live) == 0
    assert awaits.waiting_for("any", OPEN.live) is None


def test_steps_that_have_ended_are_passed_over() -> None:
    """Nobody tells of them."""
    awaits = Awaits(OPEN.awaiting, OPEN.live)
    less = without(without(OPEN, 0), 1)
    assert awaits.taker(event("e"), less.live) == 3
    assert awaits.taker(event("f", "mine"), less.live) == 2
    assert awaits.waiting_for("mine", less.live) is None


def test_a_further_step_waits_behind_the_others() -> None:
    """Also where none waited for the name before."""
    awaits = Awaits((1,), OPEN.live)
    awaits.add(OPEN.live[2])
    awaits.add(OPEN.live[3])
    assert [awaits.taker(event(name), OPEN.live) for name in "ef"] == [1, 2]
    assert list(awaits.by_name("e", OPEN.live)) == [1, 3]


def test_a_stale_id_leaves_its_event_to_the_name() -> None:
    """The await by id has ended; a step that waits for the event's name takes it."""
    awaits = Awaits(OPEN.awaiting, OPEN.live)
    less = without(OPEN, 0)
    assert awaits.taker(event("e", "mine"), less.live) == 1


def test_a_workflow_that_has_ended_takes_nothing() -> None:
    """Its events are kept, for a restart."""
    state = after(waiting(await_event()), sent(1), Asked(), CancelWorkflow(epoch=2))
    assert state.events
    assert match_event(state) is None


def naive(
    events: list[SentEvent], awaiting: list[int], live: dict[int, StepRecord]
) -> list[tuple[str, int]]:
    """Which queued event goes to which step, by the rule as it is written down."""
    pairs, free = [], list(awaiting)
    for each in sorted(events, key=lambda e: e.sequence or 0):
        by_id = [n for n in free if _wait(live, n).event_id == each.event_id]
        found = by_id or [n for n in free if _wait(live, n).event_name == each.name]
        if found:
            free.remove(found[0])
            pairs.append((each.event_id, found[0]))
    return pairs


def _wait(live: dict[int, StepRecord], number: int) -> AwaitEvent:
    command = live[number].command
    assert isinstance(command, AwaitEvent)
    return command


@pytest.mark.parametrize("seed", range(30))
def test_the_queue_gives_what_a_search_finds(seed: int) -> None:
    """After each event, wait, cancel, time-out and delivery, in any order."""
    chance = random.Random(seed)
    live: dict[int, StepRecord] = {}
    awaiting: list[int] = []
    events: list[SentEvent] = []
    awaits = Awaits((), live)
    queue = Queue((), awaits, live)
    delivered = 0
    for number in range(120):
        match chance.choice(["event", "event", "wait", "wait", "cancel", "deliver", "late"]):
            case "event" | "late" as how:
                place = 2 * number if how == "event" else max(1, 2 * number - 9)
                new = SentEvent(
                    event_id=f"e{number}",
                    name=chance.choice("ab"),
                    sequence=place,
                    outcome=Succeeded("1"),
                )
                if all(each.sequence != place for each in events):
                    events.append(new)
                    queue.add(new, live)
            case "wait":
                known = f"e{chance.randrange(number + 5)}"
                is_free = all(_wait(live, n).event_id != known for n in awaiting)
                by_id = is_free and chance.random() < 0.4
                command = await_id(known) if by_id else await_event(chance.choice("ab"))
                record = replace(OPEN.live[1], number=number, command=command)
                live[number] = record
                awaiting.append(number)
                awaits.add(record)
                queue.waits(record)
            case "cancel" if awaiting:
                del live[awaiting.pop(chance.randrange(len(awaiting)))]
            case "deliver":
                pairs = naive(events, awaiting, live)
                found = queue.first(live)
                assert (None if found is None else (found[0].event_id, found[1])) == (
                    pairs[0] if pairs else None
                )
                if found is not None:
                    delivered += 1
                    events.remove(found[0])
                    queue.remove(found[0], live)
                    awaiting.remove(found[1])
                    del live[found[1]]
        pairs = naive(events, awaiting, live)
        served = {number: event_id for event_id, number in pairs}
        for n in awaiting:
            mine = queue.event_for(live[n], live)
            assert (None if mine is None else mine.event_id) == served.get(n)
    assert delivered > 5


def test_events_that_nobody_awaits_are_not_looked_at() -> None:
    """Nor are waits for others: the next one is found at once."""
    queue = Queue((sent_one(n, "x") for n in range(1_000)), Awaits((), OPEN.live), OPEN.live)
    assert queue._due == []
    assert queue.first(OPEN.live) is None


def sent_one(place: int, name: str) -> SentEvent:
    return SentEvent(event_id=f"{name}{place}", name=name, sequence=place, outcome=Succeeded("1"))

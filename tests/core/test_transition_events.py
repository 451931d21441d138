"""The transition: events, their time-outs, and durable sleeps, with the order of their delivery."""

from __future__ import annotations

from msgspec.structs import replace
from tests.core.playbook import (
    NOW,
    At,
    Playbook,
    after,
    asked,
    await_event,
    await_id,
    fresh,
    ok,
    row,
    sent,
    sleep,
    step,
    waiting,
)

from perdure.core.commands import CancelStep
from perdure.core.effects import CheckEvent, ConsumeEvent, SetTimer
from perdure.core.journal import Started, StepEnded
from perdure.core.messages import (
    Asked,
    EventMissing,
    EventSent,
    FactDelivered,
    SentEvent,
    StepDue,
)
from perdure.core.outcomes import Failed
from perdure.core.workflow import next_fact
from perdure.errors import ErrorInfo

CREATED = EventSent(event=SentEvent(event_id="made", name="e"))
BEGUN = after(fresh(), FactDelivered(fact=Started()))


def error_of(outcome: object) -> ErrorInfo:
    """The error of a failed outcome."""
    assert isinstance(outcome, Failed)
    return outcome.error


# --- the queue ----------------------------------------------------------------------------------


def test_events_queue_in_the_order_in_which_they_were_sent() -> None:
    """Kept until consumed, by sequence: the order in which they are seen does not matter."""
    state = after(waiting(), sent(3), sent(1), CREATED, sent(2))
    assert [event.event_id for event in state.events] == ["e1", "e2", "e3", "made"]


def test_an_event_is_consumed_at_its_delivery() -> None:
    """Sending settles nothing; the delivery takes the event out of the queue and ends the step."""
    book = Playbook(waiting(await_event(due_at=NOW + 50)), now=NOW + 5)
    book = book >> sent(1, at=NOW + 2, value='"hi"')
    assert book
    assert step(book.state).state == "asked"
    fact = StepEnded(0, ok('"hi"'))
    assert next_fact(book.state, NOW + 5) == fact
    assert (
        book
        >> FactDelivered(fact=fact)
        << ConsumeEvent("e1", 0)
        << row(
            0,
            state="settled",
            event_id="e1",
            settled_at=NOW + 2,
            delivered_position=1,
            due_at=None,
        )
    )
    assert (book.state.events, book.state.awaiting, book.state.live) == ((), (), {})


def test_each_event_is_delivered_once() -> None:
    """Of two waits and one event, the one that has waited longest gets it; the other goes on."""
    state = after(waiting(await_event(), await_event()), sent(1))
    fact = next_fact(state, NOW)
    assert fact == StepEnded(0, ok())
    state = after(state, FactDelivered(fact=fact))
    assert (next_fact(state, NOW), state.awaiting) == (None, (1,))


def test_events_go_to_waits_in_order() -> None:
    """Two waits get two events first to first; other names are left alone."""
    state = waiting(await_event(), await_event("other"), await_event())
    state = after(state, sent(1, value="1"), sent(2, value="2"))
    for fact in (StepEnded(0, ok("1")), StepEnded(2, ok("2"))):
        assert next_fact(state, NOW) == fact
        state = after(state, FactDelivered(fact=fact))
    assert (state.awaiting, state.events) == ((1,), ())


def test_an_event_sent_before_the_wait_is_kept_for_it() -> None:
    """Sending first and waiting later meets as well."""
    state = after(BEGUN, sent(1), asked(await_event()))
    assert next_fact(state, NOW) == StepEnded(0, ok())


def test_a_cancelled_wait_consumes_nothing() -> None:
    """The event stays for the next wait."""
    state = after(waiting(await_event()), sent(1), Asked(cancels=(CancelStep(0),)))
    assert (next_fact(state, NOW), len(state.events)) == (None, 1)
    state = after(state, asked(await_event(), first=1))
    assert next_fact(state, NOW) == StepEnded(1, ok())


def test_an_event_may_carry_an_error() -> None:
    """send_event(error=…) fails the wait with that error."""
    error = ErrorInfo("EventError", "no")
    event = replace(sent(1).event, outcome=Failed(error))
    state = after(waiting(await_event()), EventSent(event=event))
    assert next_fact(state, NOW) == StepEnded(0, Failed(error))


# --- events by id -------------------------------------------------------------------------------


def test_a_created_event_is_delivered_when_it_is_sent() -> None:
    """Created only, it is not delivered; sending fills it in under the same id."""
    state = after(BEGUN, CREATED, asked(await_id("made")))
    assert next_fact(state, NOW) is None
    filled = replace(CREATED.event, sequence=1, sent_at=NOW, outcome=ok("7"))
    state = after(state, EventSent(event=filled))
    assert len(state.events) == 1
    assert next_fact(state, NOW) == StepEnded(0, ok("7"))


def test_a_wait_by_id_takes_that_event_only() -> None:
    """An earlier event of the same name is not taken by a wait for another id."""
    state = after(BEGUN, sent(1, value="1"), sent(2, value="2"), asked(await_id("e2")))
    assert next_fact(state, NOW) == StepEnded(0, ok("2"))


NOBODY = ErrorInfo("EventNotFound", "event 'nobody' is unknown")


def test_an_id_that_is_not_known_here_is_looked_for() -> None:
    """It may have been created, and nobody was told: the commit looks, and says if not."""
    assert (
        Playbook(BEGUN)
        >> asked(await_id("nobody"))
        << CheckEvent("nobody", 0)
        << row(0, is_new=True, state="asked")
        >> EventMissing(number=0, error=NOBODY)
        << row(0, state="settled", outcome=Failed(NOBODY), settled_at=NOW)
        >> EventMissing(number=0, error=NOBODY)
    )


def test_an_await_by_id_that_was_cancelled_is_not_failed() -> None:
    """Asked and cancelled in one reaction: what the commit finds comes too late."""
    both = Asked(steps=((0, await_id("nobody")),), cancels=(CancelStep(0),))
    state = after(BEGUN, both)
    assert after(state, EventMissing(number=0, error=NOBODY)) == state


def test_an_event_goes_to_the_await_of_its_id_first() -> None:
    """Whoever awaits its name has waited longer, but the other one can get nothing else."""
    state = after(BEGUN, CREATED, asked(await_event(), await_id("made")))
    filled = replace(CREATED.event, sequence=1, sent_at=NOW, outcome=ok("7"))
    state = after(state, EventSent(event=filled))
    assert next_fact(state, NOW) == StepEnded(1, ok("7"))


def test_an_await_by_id_that_timed_out_leaves_its_event() -> None:
    """The event is there still, and may be awaited anew."""
    state = after(BEGUN, CREATED, asked(replace(await_id("made"), due_at=NOW + 1)))
    state = after(state, StepDue(number=0), now=NOW + 1)
    assert error_of(step(state).outcome).type == "TimeoutError"
    assert state.events == (CREATED.event,)
    assert step(after(state, asked(await_id("made"), first=1)), 1).state == "asked"


# --- time-outs ----------------------------------------------------------------------------------


def test_a_wait_times_out_at_its_deadline() -> None:
    """Not before; with a TimeoutError; accepted at the deadline however late it is seen."""
    book = Playbook(BEGUN)
    assert (
        book
        >> asked(await_event(due_at=NOW + 10))
        << row(0, is_new=True, state="asked", due_at=NOW + 10)
        << SetTimer(NOW + 10, 0)
        >> At(NOW + 9)
        >> StepDue(number=0)
        >> At(NOW + 99)
        >> StepDue(number=0)
        << row(0, state="settled", settled_at=NOW + 10, event_id=None)
    )
    assert error_of(step(book.state).outcome).type == "TimeoutError"


def test_an_event_sent_before_the_deadline_wins() -> None:
    """Both are seen late: what counts is when the event was sent; on a tie the event wins."""
    for at in (NOW + 9, NOW + 10):
        state = after(waiting(await_event(due_at=NOW + 10)), sent(1, at=at), now=NOW + 99)
        state = after(state, StepDue(number=0), now=NOW + 99)
        assert next_fact(state, NOW + 99) == StepEnded(0, ok())


def test_an_event_sent_after_the_deadline_loses() -> None:
    """Both are seen late: the wait times out and the event stays for the next one."""
    state = after(waiting(await_event(due_at=NOW + 10)), sent(1, at=NOW + 11), now=NOW + 99)
    state = after(state, StepDue(number=0), now=NOW + 99)
    assert error_of(step(state).outcome).type == "TimeoutError"
    assert len(state.events) == 1


def test_an_event_in_time_wins_behind_events_for_others() -> None:
    """The deadline of one wait is judged by its own event, not by the first in the queue."""
    state = waiting(await_event("a"), await_event("b", due_at=NOW + 10))
    state = after(state, sent(1, "a", at=NOW + 1), sent(2, "b", at=NOW + 2), now=NOW + 99)
    state = after(state, StepDue(number=1), now=NOW + 99)
    assert step(state, 1).state == "asked"
    state = after(state, FactDelivered(fact=StepEnded(0, ok())))
    assert next_fact(state, NOW + 99) == StepEnded(1, ok())


def test_an_event_that_a_longer_wait_gets_does_not_hold_off_a_time_out() -> None:
    """One event, two waits of its name: the second one times out, the first is not hurried."""
    state = waiting(await_event(), await_event(due_at=NOW + 10))
    state = after(state, sent(1, at=NOW + 1), StepDue(number=1), now=NOW + 99)
    assert error_of(step(state, 1).outcome).type == "TimeoutError"
    assert next_fact(state, NOW + 99) == StepEnded(0, ok())


# --- sleeps -------------------------------------------------------------------------------------


def test_a_sleep_ends_at_its_time() -> None:
    """Never early; seen late, it still counts from the time at which it was due."""
    assert (
        Playbook(BEGUN)
        >> asked(sleep(NOW + 10))
        << row(0, is_new=True, state="asked")
        << SetTimer(NOW + 10, 0)
        >> At(NOW + 9)
        >> StepDue(number=0)
        >> At(NOW + 12)
        >> StepDue(number=0)
        << row(0, state="settled", outcome=ok("null"), settled_at=NOW + 10)
        >> StepDue(number=0)
    )


def test_a_sleep_into_the_past_ends_at_once() -> None:
    """It settles as it is asked, without a timer, in the order of its due time."""
    assert (
        Playbook(BEGUN)
        >> asked(sleep(NOW), sleep(NOW - 5))
        << row(0, is_new=True, state="settled", settled_at=NOW)
        << row(1, is_new=True, state="settled", settled_at=NOW - 5)
    )
    state = after(BEGUN, asked(sleep(NOW), sleep(NOW - 5)))
    assert next_fact(state, NOW) == StepEnded(1, ok("null"))


def test_an_event_id_is_awaited_by_one_step_only() -> None:
    """A second await of an id that is awaited fails at once; it would wait for ever."""
    state = after(waiting(), CREATED, asked(await_id("made")), asked(await_id("made"), first=1))
    assert step(state, 0).state == "asked"
    assert error_of(step(state, 1).outcome).type == "EventNotFound"
    assert "is awaited by step 0 already" in error_of(step(state, 1).outcome).message


def test_an_event_id_whose_await_is_cancelled_may_be_awaited_anew() -> None:
    """The cancel of the old await counts before the new one, also within one reaction."""
    state = after(waiting(), CREATED, asked(await_id("made")))
    again = Asked(steps=((1, await_id("made")),), cancels=(CancelStep(0),))
    assert step(after(state, again), 1).state == "asked"

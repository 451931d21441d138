"""The restart: what of a journal stays, what is learned again, and what is asked again."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from tests.core.playbook import NOW, await_event, await_id, child, ok, run, sleep

from perdure.core.commands import StepCommand
from perdure.core.journal import StepRecord, TickRecord, command_bytes, outcome_bytes
from perdure.core.limits import TICK_BYTES
from perdure.core.messages import SentEvent
from perdure.core.outcomes import Canceled, Failed, Outcome
from perdure.core.restart import Restart
from perdure.core.restart import restarted as restart
from perdure.core.workflow import RESTARTED, WorkflowHeader, WorkflowState, next_fact
from perdure.errors import ErrorInfo

#: When the restarts of these tests happen.
LATER = NOW + 10_000

FAILED = Failed(ErrorInfo("ValueError", "boom"))


def learned(
    number: int,
    asked: int,
    delivered: int | None,
    command: StepCommand | None = None,
    outcome: Outcome | None = None,
    **fields: Any,
) -> StepRecord:
    """A step that was asked for at one position and, if at all, learned of at another; each took
    as many ms as its number has tens, and was told ten positions' ms after the beginning."""
    at = None if delivered is None else NOW + 10 * delivered
    known: dict[str, Any] = {"settled_at": NOW + number, "attempt": 2} | fields
    return StepRecord(
        number=number,
        command=command or run(f"f{number}"),
        asked_position=asked,
        asked_at=NOW + 10 * asked,
        asked_epoch=1,
        state="settled",
        outcome=outcome or ok(str(number)),
        delivered_position=delivered,
        delivered_at=at,
        **known,
    )


def canceled(
    number: int, asked: int, command: StepCommand | None = None, *, at: int | None = None, **f: Any
) -> StepRecord:
    """A step that the end of its workflow has canceled; with `at`, its handler there."""
    return learned(number, asked, None, command, Canceled(), canceled_position=at, **f)


def ended(position: int, next_number: int, **fields: Any) -> WorkflowState:
    """A workflow whose last fact was at `position`."""
    header = WorkflowHeader(
        workflow_id="w", name="flow", arguments="{}", created_at=NOW, start_at=NOW
    )
    known: dict[str, Any] = {"started_at": NOW, "stamp": NOW + 10 * position} | fields
    return WorkflowState(
        header=header,
        epoch=4,
        status="success",
        outcome=ok(),
        position=position,
        ended_at=NOW + 9_000,
        next_number=next_number,
        **known,
    )


def restarted(
    state: WorkflowState,
    *steps: StepRecord,
    number: int | None = None,
    ticks: tuple[TickRecord, ...] = (),
) -> Restart:
    """Restart it, and check what holds of every restart."""
    plan = restart(state, steps, ticks, from_number=number, epoch=9, now=LATER)
    after = plan.state
    after.check()
    assert (after.status, after.outcome, after.owner, after.epoch) == ("in_progress", None, None, 9)
    assert after.wake_at == LATER
    assert after.next_number == (len(steps) if number is None else number)
    assert after.position == plan.cut_position
    assert [each.number for each in asked(plan)] == list(after.live)
    # It comes back from the store as it was decided.
    by_time = sorted((each.settled_at, n) for n, each in after.live.items() if each.outcome)
    assert list(after.settled) == by_time
    return plan


def asked(plan: Restart) -> list[StepRecord]:
    """What changes of the steps of which the handler still learns something. Beside them only the
    one that it had learned of at the cut may change: that is now."""
    at_cut = [each for each in plan.changed if each.number not in plan.state.live]
    positions = [(each.delivered_position, each.delivered_at) for each in at_cut]
    assert positions in ([], [(plan.cut_position, LATER)])
    return [each for each in plan.changed if each.number in plan.state.live]


def facts(plan: Restart) -> list[int]:
    """The steps whose outcomes the handler learns after the cut, in that order."""
    return [number for _, number in plan.state.settled]


# --- the cut --------------------------------------------------------------------------------------


def test_the_cut_lies_where_the_step_was_asked_for() -> None:
    """What was learned by then stays as it is; the steps from there on go."""
    first, second, third = learned(0, 0, 1), learned(1, 1, 2), learned(2, 2, 3)
    plan = restarted(ended(3, 3), first, second, third, number=1)
    assert (plan.cut_number, plan.cut_position) == (1, 1)
    assert plan.changed == (replace(first, delivered_at=LATER),)
    assert plan.state.stamp == LATER  # what is asked for now counts from now


def test_from_the_first_step_the_beginning_is_all_that_stays() -> None:
    """The workflow begins now; nothing else is known."""
    plan = restarted(ended(2, 2), learned(0, 0, 1), learned(1, 1, 2), number=0)
    assert plan.cut_position == 0
    assert plan.state.stamp == plan.state.started_at == LATER
    assert plan.state.journal_bytes == 0


def test_steps_that_were_asked_for_together_are_cut_apart() -> None:
    """Of one batch those before the step stay, though they were asked for at the cut, and are
    learned again after it."""
    steps = (learned(0, 0, 2), learned(1, 0, 1), learned(2, 0, 3))
    plan = restarted(ended(3, 3), *steps, number=1)
    assert plan.cut_position == 0
    assert facts(plan) == [0]
    (again,) = plan.changed
    assert (again.delivered_position, again.delivered_at, again.outcome) == (None, None, ok("0"))


def test_without_a_step_all_is_kept() -> None:
    """Nothing is cut, and nothing is learned twice."""
    steps = (learned(0, 0, 1), learned(1, 1, 2, outcome=FAILED))
    plan = restarted(ended(2, 2), *steps)
    assert (plan.cut_number, plan.cut_position, plan.changed) == (None, 2, ())
    assert plan.state.stamp == NOW + 20


def test_one_that_never_began_just_begins() -> None:
    """It was canceled before its first fact: no replay is needed, and none is possible."""
    plan = restarted(ended(-1, 0, started_at=None, stamp=NOW))
    assert plan.state.blocked is None
    assert plan.cut_position == -1
    assert next_fact(plan.state, LATER) is not None


def test_its_handler_must_run_though_no_fact_makes_it() -> None:
    """After the cut the handler asks for what comes next: so it is looked at, at once."""
    blocked = restarted(ended(1, 1), learned(0, 0, 1)).state.blocked
    assert blocked is not None
    assert (blocked.error, blocked.count) == (RESTARTED, 0)


def test_what_came_of_its_end_is_forgotten() -> None:
    """Also that its workers died, and that its on_complete raised."""
    state = ended(1, 1, takeovers=5, on_complete_error=FAILED.error)
    after = restarted(state, learned(0, 0, 1)).state
    assert (after.takeovers, after.on_complete_error, after.ended_at) == (0, None, None)


# --- ticks and stamps -----------------------------------------------------------------------------


def test_a_timer_at_the_cut_fires_again() -> None:
    """Its time says which timers it fired, so it cannot be now: it is taken back. Others stay."""
    ticks = (TickRecord(1, NOW + 11), TickRecord(2, NOW + 21), TickRecord(4, NOW + 41))
    steps = (learned(0, 0, 3), learned(1, 2, 5))
    plan = restarted(ended(5, 2), *steps, number=1, ticks=ticks)
    assert plan.cut_position == 1
    assert plan.state.stamp == NOW + 11  # the tick's own time
    assert plan.state.journal_bytes == TICK_BYTES + _bytes(steps[0])
    assert plan.state.timer_at is None
    assert facts(plan) == [0]


def test_a_timer_at_the_cut_stays_with_what_it_led_to() -> None:
    """A step that was asked for with the one that is run anew is kept: so is the time."""
    ticks = (TickRecord(1, NOW + 11),)
    steps = (learned(0, 1, 2), learned(1, 1, 3))
    plan = restarted(ended(3, 2), *steps, number=1, ticks=ticks)
    assert plan.cut_position == 1
    assert plan.state.stamp == NOW + 11
    assert facts(plan) == [0]


def test_the_fact_at_the_cut_is_learned_now() -> None:
    """For the handler a sleep that it asks for there is not over before it begins."""
    steps = (learned(0, 0, 1), learned(1, 0, 2), learned(2, 2, 3))
    plan = restarted(ended(3, 3), *steps, number=2)
    assert plan.state.stamp == LATER
    assert plan.changed == (replace(steps[1], delivered_at=LATER),)


# --- what is learned again ------------------------------------------------------------------------


def test_outcomes_after_the_cut_come_in_their_old_order() -> None:
    """Those that were delivered by their positions, then those that never were by their times."""
    steps = (
        learned(0, 0, 5, settled_at=NOW + 40),
        learned(1, 0, 3, settled_at=NOW + 20),
        learned(2, 0, 4, settled_at=NOW + 30),
        learned(3, 0, None, settled_at=NOW + 60),
        learned(4, 0, None, settled_at=NOW + 50),
        learned(5, 0, 1),
    )
    assert facts(restarted(ended(5, 6), *steps, number=5)) == [1, 2, 0, 4, 3]


def test_where_times_tell_another_order_than_the_delivery_the_times_give_way() -> None:
    """An outcome that was heard of late was delivered late, and is again; also on a tie."""
    steps = (
        learned(0, 0, 4, settled_at=NOW + 10),
        learned(1, 0, 2, settled_at=NOW + 90),
        learned(2, 0, 3, settled_at=NOW + 90),
        learned(3, 0, None, settled_at=NOW + 5),
        learned(4, 0, 1),
    )
    plan = restarted(ended(4, 5), *steps, number=4)
    assert facts(plan) == [1, 2, 0, 3]
    assert [at - NOW for at, _ in plan.state.settled] == [90, 90, 91, 92]


def test_a_failure_is_an_outcome_as_any_other() -> None:
    """It is kept, and learned again."""
    plan = restarted(ended(2, 2), learned(0, 0, 2, outcome=FAILED), learned(1, 0, 1), number=1)
    assert facts(plan) == [0]
    assert asked(plan)[0].outcome == FAILED


def test_a_child_that_was_canceled_and_said_so_has_an_outcome() -> None:
    """The handler had learned that it was canceled: it learns that again."""
    told = learned(0, 0, 2, child(), Canceled(), child_id="c")
    plan = restarted(ended(2, 2), told, learned(1, 0, 1), number=1)
    assert facts(plan) == [0]
    assert plan.asked_again == ()


def test_an_event_that_a_kept_step_consumed_stays_consumed() -> None:
    """The step has its outcome, and the event's id, and is no open wait."""
    heard = learned(0, 0, 2, await_event(), event_id="e1")
    plan = restarted(ended(2, 2), heard, learned(1, 0, 1), number=1)
    assert plan.state.awaiting == ()
    assert asked(plan)[0].event_id == "e1"
    assert facts(plan) == [0]


# --- what is asked again --------------------------------------------------------------------------


@pytest.mark.parametrize("position", [None, 2])
def test_a_step_that_the_end_or_later_code_canceled_is_asked_again(position: int | None) -> None:
    """Canceled by the end, or by the handler after the cut: neither is an outcome of its own."""
    open_step = canceled(0, 0, at=position, started_at=NOW, started_epoch=3, runner=None)
    plan = restarted(ended(3, 3), open_step, learned(1, 0, 1), learned(2, 1, 3), number=2)
    (again,) = asked(plan)
    assert (again.state, again.due_at, again.attempt) == ("ready", LATER, 0)
    assert (again.outcome, again.settled_at, again.canceled_position) == (None, None, None)
    assert (again.started_at, again.started_epoch, again.deadline_at) == (None, None, None)
    assert again.asked_epoch == 1  # so its idempotency key is what it was
    assert plan.state.busy == 1


@pytest.mark.parametrize("position", [1, 2])
def test_a_step_that_the_handler_canceled_by_the_cut_stays_canceled(position: int) -> None:
    """Up to the cut the handler does what it did, that at the cut included."""
    given_up = canceled(0, 0, at=position)
    steps = (given_up, learned(1, 0, 1), learned(2, 2, 3))
    ticks = (TickRecord(2, NOW + 20),)
    plan = restarted(ended(3, 3), *steps, number=2, ticks=ticks)
    assert (plan.changed, plan.cut_position) == ((), position)  # a timer with nothing goes


def test_schedules_sleeps_and_timeouts_keep_their_times() -> None:
    """A schedule in the future is waited for; one that has passed is due now. A sleep and the
    timeout of an await count from when they were asked for first."""
    soon, past = LATER + 5, LATER - 5
    steps = (
        canceled(0, 0, run(due_at=soon)),
        canceled(1, 0, run(due_at=past)),
        canceled(2, 0, sleep(soon)),
        canceled(3, 0, sleep(past)),
        canceled(4, 0, await_event(due_at=past)),
        canceled(5, 0, await_id("e7")),
    )
    plan = restarted(ended(0, 6), *steps)
    got = [(each.state, each.due_at) for each in plan.changed]
    expected = [("asked", soon), ("ready", LATER), ("asked", soon), ("asked", past)]
    assert got == [*expected, ("asked", past), ("asked", None)]
    assert plan.state.awaiting == (4, 5)


def test_unconsumed_events_are_there_for_the_waits() -> None:
    """An event that came after the end is what the open wait gets, ahead of what is later."""
    event = SentEvent(event_id="e1", name="e", sequence=1, sent_at=NOW + 5, outcome=ok("7"))
    waits = canceled(0, 0, await_event())
    plan = restarted(ended(2, 2, events=(event,)), waits, learned(1, 0, 1))
    assert plan.state.events == (event,)
    fact = next_fact(plan.state, LATER)
    assert getattr(fact, "outcome", None) == ok("7")


# --- children, and the size -----------------------------------------------------------------------


def test_children_of_cut_steps_go_and_those_of_open_ones_are_looked_for() -> None:
    """A child with a recorded outcome concerns nobody."""
    steps = (
        learned(0, 0, 1, child(), child_id="a"),
        canceled(1, 0, child(), child_id="b"),
        learned(2, 1, 2, child(), child_id="c"),
        canceled(3, 2, child(), child_id="d"),
    )
    plan = restarted(ended(2, 4), *steps, number=2)
    assert plan.children == ((2, "c"), (3, "d"))
    assert [(each.number, each.child_id, each.due_at) for each in plan.asked_again] == [
        (1, "b", None)
    ]


def _bytes(record: StepRecord) -> int:
    assert record.outcome is not None
    return command_bytes(record.command) + outcome_bytes(record.outcome)


def test_the_size_is_that_of_what_is_left() -> None:
    """Neither what was cut counts, nor how the workflow ended."""
    steps = (
        learned(0, 0, 1, outcome=ok('"é"')),
        canceled(1, 0, run(arguments='{"a": 1}')),
        learned(2, 1, 2, outcome=FAILED),
        learned(3, 2, 3, outcome=ok("1" * 1_000)),
    )
    ticks = (TickRecord(4, NOW + 40),)
    state = ended(4, 4, journal_bytes=10_000)
    plan = restarted(state, *steps, number=3, ticks=ticks)
    assert plan.state.journal_bytes == sum(map(_bytes, steps[:3]))
    assert _bytes(steps[0]) > command_bytes(steps[0].command) + 3

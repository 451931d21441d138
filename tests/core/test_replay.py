"""Handlers over journals: live, then the same from every prefix; and how they are dropped.

Code that does not fit is in test_replay_violations.py; the laws over random programs
are in property_tests/test_replay_laws.py.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest
from tests.core.liverun import (
    LiveRun,
    StepError,
    Steps,
    both,
    cancels,
    check_replays,
    launch,
    resolve,
    two_in_a_row,
)
from tests.core.playbook import NOW, ok, run

from perdure.core.commands import CancelStep
from perdure.core.journal import Delivery, Started, StepEnded, Tick
from perdure.core.messages import Asked, Ended, StepDue
from perdure.core.outcomes import Canceled, Succeeded
from perdure.core.replay import Handler, Value
from perdure.errors import DeterminismError

pytestmark = pytest.mark.usefixtures("no_noise")


# --- live, and again ----------------------------------------------------------------------------


def test_a_handler_runs_until_it_waits() -> None:
    """Each fact advances it to the next wait; numbers are dense; the end is its outcome."""
    live = LiveRun(two_in_a_row)
    assert live.open_names == ["f"]
    live.answer("f", 1)
    assert live.open_names == ["g"]
    live.answer("g", 2)
    assert live.value == 2
    assert [reaction for _, reaction in live.reactions] == [
        Asked(steps=((0, run("f", arguments="[]")),)),
        Asked(steps=((1, run("g", arguments="[1]")),)),
        Ended(outcome=Succeeded("2")),
    ]
    check_replays(live)


def test_it_goes_on_after_a_crash_at_any_moment() -> None:
    """Dropped after every fact and rebuilt from the rows, it does what it would have done."""
    live = LiveRun(two_in_a_row)
    live.crash()
    live.answer("f", 1)
    live.crash()
    assert live.open_names == ["g"]
    assert len(live.steps) == 2
    live.answer("g", 2)
    assert live.value == 2


def test_an_exception_of_a_step_can_be_caught_and_replays() -> None:
    """A failed step raises where it is awaited, live and again."""

    async def main(steps: Steps) -> Any:
        try:
            await steps.run("f")
        except StepError as error:
            return await steps.run("mend", str(error))

    live = LiveRun(main)
    live.answer("f", StepError("broken"))
    live.answer("mend", 3)
    assert live.value == 3
    check_replays(live)


def test_an_exception_that_nobody_catches_fails_the_workflow() -> None:
    """What the handler raises is the workflow's failure, and the same on replay."""
    live = LiveRun(two_in_a_row)
    live.answer("f", StepError("broken"))
    assert (live.error.type, live.error.message) == ("StepError", "broken")
    check_replays(live)


def test_outcomes_reach_a_gather_in_any_order() -> None:
    """The result is by place; the journal keeps in which order they came."""
    for order in (["f", "g"], ["g", "f"]):
        live = LiveRun(both)
        for name in order:
            live.answer(name, name)
        assert live.value == ["f", "g"]
        assert [live.steps[n].delivered_position for n in (0, 1)] == [
            1 + order.index(name) for name in ("f", "g")
        ]
        check_replays(live)


def test_facts_that_were_late_are_delivered_one_by_one() -> None:
    """Two outcomes of one turn are two facts, in the order in which they were accepted."""
    live = LiveRun(both)
    live.answer("g", 2, is_late=True)
    live.now += 5
    live.answer("f", 1, is_late=True)
    live.advance()
    assert [delivery.fact for delivery, _ in live.reactions] == [
        Started(),
        StepEnded(1, ok("2"), 1),
        StepEnded(0, ok("1"), 1),
    ]


def test_another_order_within_a_batch_matches() -> None:
    """Steps of one reaction are found by content, so that a gather may start them otherwise."""

    async def other_order(steps: Steps) -> Any:
        g, f = steps.run("g"), steps.run("f")
        return await asyncio.gather(f, g)

    live = LiveRun(both)
    live.answer("g", "of g")
    live.crash(other_order)
    assert live.state.blocked is None
    live.answer("f", "of f")
    assert live.value == ["of f", "of g"]


def test_equal_commands_of_a_batch_take_records_in_order() -> None:
    """Equal steps are matched first to first, so that each gets its own outcome again."""

    async def main(steps: Steps) -> Any:
        return await asyncio.gather(steps.run(), steps.run(), steps.run())

    live = LiveRun(main)
    for number in (2, 0, 1):
        live.answer(number, number)
    assert live.value == [0, 1, 2]
    check_replays(live)


def test_only_live_facts_count_as_live() -> None:
    """`is_replaying` is true for facts of the journal and false for new ones."""
    seen: list[bool] = []

    async def main(steps: Steps) -> None:
        seen.append(steps.handler.is_replaying)
        await steps.run("f")
        seen.append(steps.handler.is_replaying)
        await steps.run("g")
        seen.append(steps.handler.is_replaying)

    live = LiveRun(main)
    live.answer("f")
    live.crash()
    live.answer("g")
    assert seen == [False, False, True, True, False]


def test_the_handler_sees_nothing_of_its_host() -> None:
    """Context variables of the host are not set in the handler: they are not in the journal."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    async def main(steps: Steps) -> Any:
        return variable.get()

    token = variable.set("host")
    try:
        assert LiveRun(main).value == "unset"
    finally:
        variable.reset(token)


# --- races and timers ---------------------------------------------------------------------------


@pytest.mark.parametrize("winner", ["f", "g"])
def test_a_race_replays_to_the_same_winner(winner: str) -> None:
    """asyncio.wait with FIRST_COMPLETED: what came first live comes first again."""

    async def main(steps: Steps) -> Any:
        racers = {steps.run("f"): "f", steps.run("g"): "g"}
        done, pending = await asyncio.wait(racers, return_when=asyncio.FIRST_COMPLETED)
        for loser in pending:
            loser.cancel()
        return await steps.run("won", *[racers[future] for future in done])

    live = LiveRun(main)
    live.answer(winner, 1)
    live.answer("won", 2)
    assert live.steps[2].command == run("won", arguments=f'["{winner}"]')
    assert [live.steps[n].outcome for n in (0, 1)].count(Canceled()) == 1
    check_replays(live)


async def with_timeout(steps: Steps) -> Any:
    """A step that may take one second."""
    try:
        async with asyncio.timeout(1):
            return await steps.run("f")
    except TimeoutError:
        return await steps.run("late")


def test_a_timeout_that_is_hit_is_journaled_and_replays() -> None:
    """The tick is a row; the step is cancelled at it; again the same."""
    live = LiveRun(with_timeout)
    assert live.state.timer_at == NOW + 1_000
    live.later(999)
    assert live.ticks == []
    live.later(1)
    assert [(tick.position, tick.now) for tick in live.ticks] == [(1, NOW + 1_000)]
    assert (live.steps[0].outcome, live.steps[0].canceled_position) == (Canceled(), 1)
    live.answer("late", 9)
    assert live.value == 9
    check_replays(live)


def test_a_timeout_that_is_not_hit_leaves_no_trace() -> None:
    """The step wins: no tick, no timer."""
    live = LiveRun(with_timeout)
    live.later(999)
    live.answer("f", 1)
    assert (live.value, live.ticks) == (1, [])
    check_replays(live)


def test_an_outcome_accepted_before_the_deadline_beats_it() -> None:
    """Both are seen late: the outcome was reported first, so the time-out does not fire."""
    live = LiveRun(with_timeout)
    live.now += 900
    live.answer("f", 1, is_late=True)
    live.now += 900
    live.tick()
    assert live.value == 1
    check_replays(live)


def test_a_deadline_before_the_outcome_wins() -> None:
    """Both are seen late: the deadline was first, and its tick fires nothing due after it."""
    live = LiveRun(with_timeout)
    live.now += 1_100
    live.answer("f", 1, is_late=True)
    live.now += 900
    live.tick()
    assert live.ticks[0].now == NOW + 1_000
    assert live.open_names == ["late"]
    check_replays(live)


def test_wait_for_works_as_a_timeout() -> None:
    """asyncio.wait_for, which differs over Python versions, cancels the step and raises."""

    async def main(steps: Steps) -> Any:
        try:
            return await asyncio.wait_for(steps.run("f"), 1)
        except TimeoutError:
            return "late"

    live = LiveRun(main)
    live.later(1_000)
    assert live.value == "late"
    assert live.steps[0].outcome == Canceled()
    check_replays(live)


def test_asyncio_sleep_is_a_tick_and_no_step() -> None:
    """Two sleeps at once: each ends at its own time, with one tick each, and no rows of steps."""

    async def main(steps: Steps) -> Any:
        loop = asyncio.get_running_loop()
        await asyncio.gather(asyncio.sleep(0.5), asyncio.sleep(2))
        return loop.time()

    live = LiveRun(main)
    live.later(5_000)
    assert live.value == 2.0
    assert (live.steps, [tick.now - NOW for tick in live.ticks]) == ({}, [500, 2_000])
    check_replays(live)


def test_a_step_sleep_is_a_step() -> None:
    """step.sleep is a row, and ends at its time."""

    async def main(steps: Steps) -> Any:
        await steps.sleep(2_000)
        return asyncio.get_running_loop().time()

    live = LiveRun(main)
    live.later(5_000)
    assert (live.value, live.ticks, live.steps[0].settled_at) == (2.0, [], NOW + 2_000)
    check_replays(live)


def test_time_stands_still_while_the_handler_runs() -> None:
    """loop.time() is the stamp of the last fact, live and again."""

    async def main(steps: Steps) -> Any:
        loop = asyncio.get_running_loop()
        times = [loop.time()]
        for name in ("f", "g"):
            await steps.run(name)
            times.append(loop.time())
        return times

    live = LiveRun(main)
    for name in ("f", "g"):
        live.now += 250
        live.crash()
        live.answer(name)
    assert live.value == [0.0, 0.25, 0.5]


def test_a_task_group_cancels_the_siblings_of_a_failure() -> None:
    """The sibling's step is cancelled durably, at the failure's position."""

    async def one(steps: Steps, name: str) -> None:
        await steps.run(name)

    async def main(steps: Steps) -> Any:
        try:
            async with asyncio.TaskGroup() as group:
                for name in ("f", "g"):
                    group.create_task(one(steps, name))
        except* StepError:
            pass
        return "done"

    live = LiveRun(main)
    live.answer("f", StepError("broken"))
    assert live.value == "done"
    assert (live.steps[1].outcome, live.steps[1].canceled_position) == (Canceled(), 1)
    check_replays(live)


def test_events_replay_in_the_order_consumed() -> None:
    """Waits in a loop get the events in their order, live and again."""

    async def main(steps: Steps) -> Any:
        return [await steps.event() for _ in range(3)]

    live = LiveRun(main)
    for value in "abc":
        live.event("e", value)
    assert live.value == ["a", "b", "c"]
    check_replays(live)


def test_a_child_is_awaited_like_a_step() -> None:
    """The outcome of a child workflow is a fact as any other."""

    async def main(steps: Steps) -> Any:
        return await steps.child()

    live = LiveRun(main)
    live.answer("child", 5)
    assert live.value == 5
    check_replays(live)


# --- cancelling ---------------------------------------------------------------------------------


def test_a_cancelled_future_cancels_its_step_and_is_journaled() -> None:
    """The cancel is a command of the reaction, recorded with its position, asked for once."""
    live = LiveRun(cancels)
    live.answer("f")
    assert live.reactions[-1][1] == Asked(cancels=(CancelStep(0),))
    assert (live.steps[0].outcome, live.steps[0].canceled_position) == (Canceled(), 1)
    live.crash()
    live.answer("kept", 1)
    assert live.value == 1
    check_replays(live)


def test_cancelling_twice_or_after_the_end_asks_for_nothing() -> None:
    """Only a future that is pending has a step to cancel."""

    async def main(steps: Steps) -> Any:
        future = steps.run("f")
        await future
        future.cancel()
        other = steps.run("g")
        other.cancel()
        other.cancel()
        return await steps.run("h")

    live = LiveRun(main)
    live.answer("f")
    assert live.reactions[-1][1] == Asked(
        steps=((1, run("g", arguments="[]")), (2, run("h", arguments="[]"))),
        cancels=(CancelStep(1),),
    )
    check_replays(live)


def test_what_the_handler_leaves_behind_asks_for_nothing() -> None:
    """At its end other tasks are cancelled; what they ask for in their clean-up is not recorded."""
    cleaned: list[str] = []

    async def background(steps: Steps) -> None:
        try:
            await steps.run("forever")
        finally:
            cleaned.append("begun")
            await steps.run("clean up")
            cleaned.append("done")

    async def main(steps: Steps) -> Any:
        task = asyncio.create_task(background(steps))
        await steps.run("f")
        return task.done()

    live = LiveRun(main)
    live.answer("f")
    assert live.value is False
    assert (cleaned, len(live.steps)) == (["begun"], 2)
    assert live.steps[1].outcome == Canceled()
    check_replays(live)


# --- dropping -----------------------------------------------------------------------------------


def test_closing_drops_a_handler_in_silence() -> None:
    """Clean-up runs, in order, what it asks for is refused, and nothing is reported."""
    log: list[str] = []

    async def task(steps: Steps, name: str) -> None:
        try:
            await steps.run(name)
        finally:
            log.append(name)
            await steps.run("clean up")

    async def main(steps: Steps) -> Any:
        await asyncio.gather(task(steps, "f"), task(steps, "g"))

    live = LiveRun(main)
    live.handler.close()
    assert log == ["f", "g"]
    assert set(live.steps) == {0, 1}


def test_commands_are_accepted_only_while_the_handler_runs() -> None:
    """A call from outside (another thread, a finalizer, a leaked object) is refused."""
    held: list[Steps] = []

    async def main(steps: Steps) -> Any:
        held.append(steps)
        return await steps.run("f")

    live = LiveRun(main)
    with pytest.raises(DeterminismError, match=r"action g \[\]: refused"):
        held[0].run("g")
    live.answer("f", 1)
    assert live.value == 1


@pytest.mark.parametrize("ends", [True, False])
def test_what_a_handler_leaves_behind_is_refused_too(ends: bool) -> None:
    """After its end, or once it was dropped, nobody would ever answer: an error, not a wait."""
    held: list[Steps] = []

    async def main(steps: Steps) -> Any:
        held.append(steps)
        return await steps.run("f")

    live = LiveRun(main)
    if ends:
        live.answer("f", 1)
    else:
        live.handler.close()
    with pytest.raises(DeterminismError, match=r"action g \[\]: refused"):
        held[0].run("g")


def test_a_timer_of_a_parked_handler_is_set_again_by_replay() -> None:
    """Timers are not journaled: running the code makes them anew, at the same time."""
    live = LiveRun(with_timeout)
    live.now += 400
    live.crash()
    assert live.state.timer_at == NOW + 1_000
    live.later(600)
    assert live.open_names == ["late"]


def test_a_due_step_and_a_tick_at_once_come_step_first() -> None:
    """A durable sleep and a time-out of the same length: on a tie the fact comes first."""

    async def main(steps: Steps) -> Any:
        async with asyncio.timeout(1):
            await steps.sleep(1_000)
        return "slept"

    live = LiveRun(main)
    live.now += 1_000
    live.send(StepDue(number=0))
    assert (live.value, live.ticks) == ("slept", [])


def test_facts_of_the_three_kinds_are_delivered_alike() -> None:
    """Handler.deliver takes a start, a tick and an outcome, each with position and stamp."""

    async def main(steps: Steps) -> Any:
        await asyncio.sleep(1)
        return await steps.run("f")

    live = LiveRun(main, is_started=False)
    handler = Handler("w", launch(main), live.journal(), NOW)
    assert handler.deliver(Delivery(0, NOW, Started())) == Asked(timer_at=NOW + 1_000)
    tick = Delivery(1, NOW + 1_000, Tick(NOW + 1_000))
    assert handler.deliver(tick) == Asked(steps=((0, run("f", arguments="[]")),))
    last = Delivery(2, NOW + 1_001, StepEnded(0, ok("4")))
    assert handler.deliver(last) == Ended(outcome=ok("4"))
    assert resolve(ok("4")) == Value(4)
    handler.close()


def test_a_handler_that_cancels_itself_as_the_last_thing_has_failed() -> None:
    """As `asyncio.run` would tell: it raised CancelledError, though the code returned."""

    async def main(steps: Steps) -> Any:
        await steps.run("f")
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return "returned"

    live = LiveRun(main)
    live.answer("f", 1)
    assert live.error.type == "CancelledError"
    check_replays(live)

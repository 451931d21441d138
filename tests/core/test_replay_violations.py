"""Code that does not fit its journal: what counts as that, what is said, and that nobody ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.core.liverun import LiveRun, Main, Steps, both, cancels, two_in_a_row
from tests.core.playbook import NOW

from perdure.core.journal import Delivery, Started
from perdure.core.limits import CALLBACKS_PER_FACT_MAX
from perdure.core.messages import HandlerBlocked
from perdure.core.outcomes import Succeeded
from perdure.core.replay import Handler

pytestmark = pytest.mark.usefixtures("no_noise")


def violation(run: LiveRun) -> list[str]:
    """The lines of the determinism report of a blocked run."""
    assert run.state.blocked is not None
    assert run.error.type == "DeterminismError"
    return run.error.message.splitlines()


# --- code that does not fit ---------------------------------------------------------------------


MISFIT = "the code does not fit the journal "


def blocked_by(main: Main) -> list[str]:
    """The report when `two_in_a_row`, with f done and g asked, becomes `main`."""
    live = LiveRun(two_in_a_row)
    live.answer("f", 1)
    before = live.state, dict(live.steps)
    live.crash(main)
    report = violation(live)
    assert (live.state.position, live.state.live, live.steps) == (
        before[0].position,
        before[0].live,
        before[1],
    )
    live.crash(two_in_a_row)
    live.answer("g", 2)
    assert live.value == 2, "code that fits goes on"
    return report


def test_a_step_added_before_recorded_ones_is_a_violation() -> None:
    """The report shows what the code asked for beside what is recorded."""

    async def added(steps: Steps) -> Any:
        await steps.run("new")
        return await two_in_a_row(steps)

    assert blocked_by(added) == [
        MISFIT + "at position 0 (the start); the journal is right and the code wrong",
        "  recorded, not asked for: step 0: action f []",
        "  asked for, not recorded: action new []",
        "  bring back code that fits, or cancel or restart the workflow",
    ]


def test_a_removed_step_is_a_violation() -> None:
    """What is recorded must be asked for."""

    async def removed(steps: Steps) -> Any:
        return await steps.run("g", 1)

    report = blocked_by(removed)
    assert "  recorded, not asked for: step 0: action f []" in report
    assert "  asked for, not recorded: action g [1]" in report


def test_a_renamed_step_is_a_violation() -> None:
    """A step is known by its name, also at the last position."""

    async def renamed(steps: Steps) -> Any:
        return await steps.run("h", await steps.run("f"))

    report = blocked_by(renamed)
    assert "at position 1 (the outcome of step 0)" in report[0]
    assert "  recorded, not asked for: step 1: action g [1]" in report
    assert "  asked for, not recorded: action h [1]" in report


def test_other_arguments_are_a_violation() -> None:
    """The same name with other arguments would get the outcome of another question."""

    async def changed_arguments(steps: Steps) -> Any:
        return await steps.run("g", await steps.run("f") + 1)

    report = blocked_by(changed_arguments)
    assert "  recorded, not asked for: step 1: action g [1]" in report


def test_an_early_end_is_a_violation() -> None:
    """A handler that returns although the journal goes on does not fit."""

    async def short(steps: Steps) -> Any:
        steps.run("f")
        return 1

    report = blocked_by(short)
    assert "  the handler ended, but the journal goes on" in report


def test_a_handler_cannot_catch_a_violation() -> None:
    """Whatever it catches, after the violation it is not advanced and journals nothing."""
    went_on: list[str] = []

    async def stubborn(steps: Steps) -> Any:
        try:
            await steps.run("new")
        except BaseException:
            went_on.append("caught")
            raise
        went_on.append("went on")

    blocked_by(stubborn)
    # Only GeneratorExit, as it is closed.
    assert went_on in ([], ["caught"])


def test_after_a_violation_every_command_is_refused() -> None:
    """What is asked for in the clean-up of a blocked handler is never answered, nor recorded."""
    live = LiveRun(two_in_a_row)
    live.answer("f", 1)
    cleaned: list[str] = []

    async def other(steps: Steps) -> Any:
        try:
            await steps.run("new")
        finally:
            cleaned.append("begun")
            await steps.run("clean up")
            cleaned.append("done")

    handler, reaction = live.replayed(main=other)
    assert isinstance(reaction, HandlerBlocked)
    assert handler.violation == reaction.error
    handler.close()
    assert cleaned == ["begun"]


def test_code_that_catches_everything_is_closed_where_it_waits() -> None:
    """A loop around a bare `except` ends the drop of a handler no more than anything else does."""
    runs: list[list[str]] = []

    async def stubborn(steps: Steps) -> Any:
        caught: list[str] = []
        runs.append(caught)
        while len(caught) < 2:
            try:
                return await steps.run("f")
            except BaseException as error:
                caught.append(type(error).__name__)
        return "it was never closed"

    live = LiveRun(stubborn)
    live.handler.close()
    # Thrown in where it waits; a refusal that raises would be caught, over and over.
    assert set(runs[0]) == {"GeneratorExit"}


def test_new_steps_at_the_frontier_are_asked_for() -> None:
    """Code that goes further than the journal fits: the new is asked for at the last position."""

    async def more(steps: Steps) -> Any:
        first = await steps.run("f")
        return await asyncio.gather(steps.run("g", first), steps.run("new"))

    live = LiveRun(two_in_a_row)
    live.answer("f", 1)
    live.crash(more)
    assert live.state.blocked is None
    assert live.open_names == ["g", "new"]
    assert (live.steps[2].number, live.steps[2].asked_position) == (2, 1)
    live.answer("new", "n")
    live.answer("g", "g")
    assert live.value == ["g", "n"]


def test_an_outcome_for_a_future_that_is_gone_is_a_violation() -> None:
    """A recorded outcome of a step that the code has cancelled by then does not fit."""

    async def cancels_first(steps: Steps) -> Any:
        first = steps.run("f")
        first.cancel()
        return await steps.run("g")

    live = LiveRun(both)
    live.answer("f", 1)
    live.crash(cancels_first)
    assert live.state.blocked is not None
    assert "cancel of step 0" in live.error.message


def test_an_outcome_that_no_longer_decodes_blocks() -> None:
    """The journal is right: the workflow waits for code that can read it."""
    live = LiveRun(two_in_a_row)
    live.settle(0, Succeeded("not JSON"))
    assert live.state.blocked is not None
    assert live.error.type == "JSONDecodeError"
    assert "the recorded outcome of step 0 no longer fits its type" in live.error.message
    assert (live.state.position, live.state.status) == (0, "in_progress")
    assert live.steps[0].outcome == Succeeded("not JSON")
    assert live.steps[0].delivered_position is None


def test_a_handler_that_spins_is_blocked() -> None:
    """An endless loop without a wait ends after a bound, and fails nobody's workflow."""

    async def spins(steps: Steps) -> Any:
        await steps.run("f")
        while True:
            await asyncio.create_task(asyncio.sleep(0))

    live = LiveRun(spins)
    live.answer("f", 1)
    assert live.error.type == "HandlerSpins"
    assert f"ran {CALLBACKS_PER_FACT_MAX} callbacks" in live.error.message
    assert (live.state.status, live.state.position) == ("in_progress", 0)


def test_a_handler_that_cannot_be_called_is_blocked() -> None:
    """Arguments that the code no longer takes: blocked, not failed."""

    def gone(handler: Handler) -> Any:
        raise TypeError("main() takes 1 argument")

    handler = Handler("w", gone, LiveRun(both, is_started=False).journal(), NOW)
    reaction = handler.deliver(Delivery(0, NOW, Started()))
    assert isinstance(reaction, HandlerBlocked)
    assert reaction.error.type == "TypeError"
    handler.close()


def test_a_cancel_that_is_recorded_must_come_again() -> None:
    """Code that does not cancel any more does not fit."""

    async def keeps(steps: Steps) -> Any:
        steps.run("doomed")
        kept = steps.run("kept")
        await steps.run("f")
        return await kept

    live = LiveRun(cancels)
    live.answer("f")
    live.crash(keeps)
    assert "  recorded, not asked for: cancel of step 0" in violation(live)


# --- code that waits for nothing ------------------------------------------------------------------


def test_a_handler_that_nothing_can_wake_is_blocked() -> None:
    """It has no step and no timer open: the report says where its tasks wait. Mended code goes on
    from what is recorded."""

    async def forgets(steps: Steps) -> Any:
        await steps.run("f")
        await asyncio.Event().wait()

    live = LiveRun(forgets)
    live.answer("f", 1)
    assert live.state.blocked is not None
    assert live.error.type == "HandlerStuck"
    assert "waits for what can never come" in live.error.message
    assert "Task-1 in Event.wait, line" in live.error.message
    assert "forgets, line" in live.error.message
    live.crash(two_in_a_row)
    live.answer("g", 2)
    assert live.value == 2


def test_tasks_that_wait_for_each_other_are_seen() -> None:
    """Two locks, taken in two orders."""

    async def crossed(steps: Steps) -> Any:
        one, two = asyncio.Lock(), asyncio.Lock()

        async def take(first: asyncio.Lock, second: asyncio.Lock) -> None:
            async with first:
                await asyncio.sleep(0)
                async with second:
                    await steps.run("f")

        await asyncio.gather(take(one, two), take(two, one))

    assert LiveRun(crossed).error.type == "HandlerStuck"


def test_a_handler_with_anything_open_is_not_stuck() -> None:
    """A timer, or a step that nobody awaits, may still wake it."""

    async def patient(steps: Steps) -> Any:
        woken = asyncio.Event()
        asyncio.get_running_loop().call_later(1, woken.set)
        await woken.wait()
        again = asyncio.Event()
        steps.run("f").add_done_callback(lambda _: again.set())
        await again.wait()
        return "woken"

    live = LiveRun(patient)
    assert live.state.blocked is None
    live.later(1_000)
    live.answer("f", 1)
    assert live.value == "woken"

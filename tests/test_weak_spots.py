"""What durable workflow engines are known to get wrong, each with a test that it is not so here.

The docstring of a test names the shortcoming as users of other engines meet it, and what perdure
does instead. `hang` never ends: what is beside it cannot have waited for it.
"""

from __future__ import annotations

import asyncio
import random
import time  # noqa: TID251  It is looked at, not asked.
from datetime import timedelta
from typing import Any

import pytest
from tests.bodies import App, play
from tests.managers import FAST, LONG, make

from perdure import (
    ActionContext,
    Step,
    StepCanceled,
    StepFailed,
    WorkflowIdConflict,
    WorkflowManager,
    define_event,
)


async def nothing(step: Step, app: App) -> None:
    """A body that is not used."""


# --- concurrency ----------------------------------------------------------------------------------


def test_one_slow_branch_does_not_hold_the_others(address: str) -> None:
    """Elsewhere a batch of steps is a barrier: code between two branches runs only when all of
    them have ended. Here each completion reaches the handler at once: one branch does three steps
    one after another while the other hangs."""

    async def body(step: Step, app: App) -> Any:
        hanging = step.run_action(app.hang())
        values = [await step.run_action(app.echo(n)) for n in range(3)]
        hanging.cancel()
        return values

    assert play(address, body)[0] == [0, 1, 2]


def test_an_error_reaches_the_handler_while_others_run(address: str) -> None:
    """Elsewhere a failure is seen when the slowest sibling has ended. Here it is seen at once."""

    async def body(step: Step, app: App) -> Any:
        hanging = step.run_action(app.hang())
        try:
            await asyncio.gather(hanging, step.run_action(app.fail("no")))
        except StepFailed as error:
            hanging.cancel()
            return error.error.message

    assert play(address, body)[0] == "no"


def test_a_race_is_won_by_the_faster(address: str) -> None:
    """Elsewhere the call that was made first wins, however slow. Here the one that ends first, and
    again on every replay."""

    async def body(step: Step, app: App) -> Any:
        several = [step.run_action(app.hang()), step.run_action(app.echo("fast"))]
        done, _ = await asyncio.wait(several, return_when=asyncio.FIRST_COMPLETED)
        several[0].cancel()
        return [future.result() for future in done]

    assert play(address, body)[0] == ["fast"]


def test_everything_can_have_a_deadline(address: str) -> None:
    """Elsewhere there is no timeout: not on a step, an event, a child, or a block of code."""

    async def body(step: Step, app: App) -> Any:
        told = []
        with pytest.raises(TimeoutError):
            await step.await_event("never", timeout=0.001)
        told.append("event")
        with pytest.raises(StepFailed) as failed:
            await step.run_action(app.hang(), timeout=0.001)
        told.append(failed.value.error.type)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(step.run_workflow(app.idle()), 0.001)
        told.append("child")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await step.run_action(app.hang())
        told.append("block")
        return told

    assert play(address, body)[0] == ["event", "TimeoutError", "child", "block"]


def test_wide_branches_go_on_each_by_itself(address: str) -> None:
    """Elsewhere many branches of several steps go in waves: a wave begins when the one before has
    ended. Here eight branches each do both steps, though a ninth hangs in its first, and though
    only two actions may run at once."""

    async def body(step: Step, app: App) -> Any:
        hanging = step.run_action(app.hang())

        async def branch(number: int) -> int:
            first: int = await step.run_action(app.echo(number))
            second: int = await step.run_action(app.echo(first + 1))
            return second

        values = await asyncio.gather(*[branch(n) for n in range(8)])
        hanging.cancel()
        return values

    assert play(address, body, max_parallelism=2)[0] == list(range(1, 9))


def test_waiting_takes_no_slot(address: str) -> None:
    """Elsewhere sleeps, polls and events share the slots of the actions, and long actions starve
    every workflow. Here hundreds of sleeps and awaits beside one slot hold up nobody."""

    async def body(step: Step, app: App) -> Any:
        waits: list[asyncio.Future[Any]] = []
        for n in range(200):
            waits += [step.sleep(3600), step.await_event(f"never {n}")]
        value = await step.run_action(app.echo("ran"))
        for each in waits:
            each.cancel()
        return value

    assert play(address, body, max_parallelism=1)[0] == "ran"


def test_a_handler_is_not_run_again_for_each_step(address: str) -> None:
    """Elsewhere the handler runs from its first line for every step: n steps cost n² reads. Here a
    live handler goes on where it is, and is run again only after it was dropped."""
    runs = 0

    async def body(step: Step, app: App) -> Any:
        nonlocal runs
        runs += 1
        return [await step.run_action(app.echo(n)) for n in range(50)]

    play(address, body)
    assert runs == 2  # once live, and once when the manager was opened again


# --- events ---------------------------------------------------------------------------------------


def test_awaits_started_together_get_an_event_each(address: str) -> None:
    """Elsewhere one event may be delivered to two awaits that start together, and another be lost.
    Here each event is consumed once, by the await that has waited longest."""

    async def body(step: Step, app: App) -> Any:
        several = [step.await_event("word") for _ in range(3)]
        for word in "abc":
            await step.run_mutation(app.poke("word", word))
        return await asyncio.gather(*several)

    assert play(address, body)[0] == ["a", "b", "c"]


def test_events_are_heard_in_the_order_in_which_they_were_sent(address: str) -> None:
    """Elsewhere "oldest" means oldest row, not first sent; and an early event is lost. Here they
    queue until somebody awaits them."""

    async def body(step: Step, app: App) -> Any:
        for word in "cab":
            await step.run_mutation(app.poke("word", word))
        return [await step.await_event("word") for _ in range(3)]

    assert play(address, body)[0] == ["c", "a", "b"]


def test_a_foreign_event_is_an_error_and_no_hang(address: str) -> None:
    """Elsewhere the event of another workflow can be awaited by its id, and its send wakes the
    wrong one: both hang. Here the await fails, and the handler may catch it."""

    async def body(step: Step, app: App) -> Any:
        try:
            await step.await_event(id="of somebody else")
        except Exception as error:
            return type(error).__name__

    assert play(address, body)[0] == "EventNotFound"


def test_a_payload_of_the_wrong_type_can_be_caught(address: str) -> None:
    """Elsewhere a bad payload ends the workflow, or is noticed far from where it came in."""
    number = define_event("number", int)

    async def body(step: Step, app: App) -> Any:
        await step.run_mutation(app.poke("number", "seven"))
        try:
            await step.await_event(number)
        except ValueError as error:
            return "payload of event number" in str(error)

    assert play(address, body)[0] is True


# --- mistakes -------------------------------------------------------------------------------------


def test_a_mistake_of_the_handler_can_be_caught(address: str) -> None:
    """Elsewhere a bad option, a duration that is no number, or an argument that is too large ends
    the workflow past its `try`. Here each is an ordinary error at the call."""

    async def body(step: Step, app: App) -> Any:
        caught = []
        mistakes: list[Any] = [
            lambda: step.sleep(float("nan")),
            lambda: step.run_mutation(app.poke("a", 1), inline=True, run_after=0),
            lambda: step.run_action(app.echo("x" * 2**21)),
            lambda: step.run_action(app.echo(1), retry="often"),  # type: ignore[arg-type]
            step.await_event,
        ]
        for mistake in mistakes:
            try:
                mistake()
            except Exception as error:
                caught.append(type(error).__name__)
        return caught

    value, steps = play(address, body)
    assert value == ["ValueError", "ValueError", "LimitExceeded", "TypeError", "ValueError"]
    assert steps == {"success": ["over"]}  # nothing of it was recorded


def test_a_step_that_cannot_be_stored_fails_and_does_not_hang(address: str) -> None:
    """Elsewhere a result over the limit, or one that cannot be stored, leaves the workflow in
    progress for ever. Here the step fails, with the place and the limit in its text."""
    app = App(address, nothing)

    @app.manager.action
    async def produce(ctx: ActionContext, how: str) -> Any:
        return "x" * 2**21 if how == "large" else object()

    @app.manager.workflow
    async def consume(step: Step) -> list[str]:
        found = await asyncio.gather(
            *[step.run_action(produce(how)) for how in ("large", "odd")], return_exceptions=True
        )
        return [each.error.type for each in found if isinstance(each, StepFailed)]

    app.manager.sync.start(consume(), id="wf")
    app.manager.sync.close()
    app.manager.run(until_idle=True)
    types = app.manager.sync.result("wf", timeout=LONG)
    app.manager.sync.close()
    assert [each.rpartition(".")[2] for each in types] == ["LimitExceeded", "ValidationError"]


def test_errors_keep_their_type_their_data_and_their_place(address: str) -> None:
    """Elsewhere an error is one string, with the stack glued into it. Here it has type, message,
    traceback and the number of attempts; a declared one comes back as itself, with its data."""

    class Refused(Exception):
        pass

    app = App(address, nothing)

    @app.manager.action(raises=Refused, retry=FAST)
    async def ask(ctx: ActionContext, how: str) -> None:
        if how == "refuse":
            raise Refused("limit", 100)
        raise OSError("line is down")

    @app.manager.workflow
    async def asking(step: Step) -> list[Any]:
        told: list[Any] = []
        try:
            await step.run_action(ask("refuse"))
        except Refused as error:
            told += error.args
        try:
            await step.run_action(ask("fail"))
        except StepFailed as failed:
            info = failed.error
            told += [info.type, info.message, "line is down" in info.traceback, failed.attempts]
            told.append(failed.step_name)
        return told

    app.manager.sync.start(asking(), id="wf")
    app.manager.sync.close()
    app.manager.run(until_idle=True)
    told = app.manager.sync.result("wf", timeout=LONG)
    app.manager.sync.close()
    assert told == ["limit", 100, "OSError", "line is down", True, 3, "ask"]


def test_an_action_knows_its_attempt_and_its_key(address: str) -> None:
    """Elsewhere the function is handed neither the number of its attempt nor a key by which the
    other side could know a repeated call."""
    seen: list[tuple[int, str]] = []
    app = App(address, nothing)

    @app.manager.action(retry=FAST)
    async def flaky(ctx: ActionContext) -> None:
        seen.append((ctx.attempt, ctx.idempotency_key))
        if ctx.attempt < 3:
            raise OSError

    @app.manager.workflow
    async def trying(step: Step) -> None:
        await step.run_action(flaky())

    app.manager.sync.start(trying(), id="wf")
    app.manager.sync.close()
    app.manager.run(until_idle=True)
    assert [attempt for attempt, _ in seen] == [1, 2, 3]
    assert len({key for _, key in seen}) == 1


def test_a_sleep_that_is_too_long_is_told(address: str) -> None:
    """Elsewhere a sleep over the limit becomes a shorter one, with a line in a log. Here it is an
    error that names the limit; and a sleep of years is a sleep of years."""

    async def body(step: Step, app: App) -> Any:
        long = step.sleep(timedelta(days=20_000))
        try:
            step.sleep(timedelta(days=40_000))
        except ValueError as error:
            long.cancel()
            return "100 years" in str(error)

    assert play(address, body)[0] is True


def test_code_is_compared_by_what_it_asks_for(address: str) -> None:
    """Elsewhere a mutation that became an action of the same name and arguments passes unnoticed,
    and what is left over of a journal too. Here both block the workflow, and code that fits goes
    on with it."""
    mode = ["mutation"]
    blocked: list[str] = []

    def release() -> WorkflowManager:
        manager = make(address)

        if mode[0] == "action":

            @manager.action(name="work")
            async def work_action(ctx: ActionContext) -> str:
                return "done"
        else:

            @manager.mutation(name="work")
            def work_mutation(ctx: Any) -> str:
                return "done"

        @manager.workflow
        async def deployed(step: Step) -> str:
            work: Any = manager.registry.get("work")
            value: str = ""
            if mode[0] == "mutation":
                value = await step.run_mutation(work())
            if mode[0] == "action":
                value = await step.run_action(work())
            await step.await_event("go")
            return value

        return manager

    first = release()
    deployed: Any = first.registry.get("deployed")
    first.sync.start(deployed(), id="wf")
    first.sync.close()
    first.run(until_idle=True)
    first.sync.send_event("go", workflow_id="wf")
    first.sync.close()
    for mode[0] in ("action", "nothing"):
        wrong = release()
        wrong.run(until_idle=True)
        status: Any = wrong.sync.status("wf")
        wrong.sync.close()
        blocked.append(status.blocked.type)
    mode[0] = "mutation"
    right = release()
    right.run(until_idle=True)
    assert right.sync.result("wf", timeout=LONG) == "done"
    right.sync.close()
    assert blocked == ["DeterminismError", "DeterminismError"]


# --- children and starts --------------------------------------------------------------------------


def test_a_childs_delay_is_kept_and_its_name_is_its_own(address: str) -> None:
    """Elsewhere the delay of a child is accepted and ignored, and a step's name overwrites that of
    the child."""

    async def body(step: Step, app: App) -> Any:
        before = step.now()
        await step.run_workflow(app.now(), run_after=0.02, name="later", workflow_id="child")
        return (step.now() - before).total_seconds() >= 0.02

    app: list[App] = []
    assert play(address, body, app)[0] is True
    names = {i.workflow_id: i.name for i in app[0].manager.sync.list_workflows()}
    app[0].manager.sync.close()
    assert names == {"wf": "scripted", "child": "now"}


def test_a_child_cancelled_from_outside_does_not_hang_its_parent(address: str) -> None:
    """Elsewhere a parent whose child is gone can neither finish nor be canceled. Here it is told,
    by StepCanceled."""

    async def body(step: Step, app: App) -> Any:
        child = step.run_workflow(app.idle(), workflow_id="victim")
        await step.run_action(app.echo("child is there"))
        await step.run_mutation(app.fell("victim"))
        try:
            await child
        except StepCanceled:
            return "told"

    assert play(address, body)[0] == "told"


def test_a_start_can_be_repeated(address: str) -> None:
    """Elsewhere a caller that does not know whether its start arrived starts twice, or not at all.
    Here an id of the caller's own makes it one start; another call under that id is an error."""
    app = App(address, nothing)
    sync = app.manager.sync
    assert [sync.start(app.idle(), id="wf") for _ in range(3)] == ["wf"] * 3
    with pytest.raises(WorkflowIdConflict):
        sync.start(app.scripted(), id="wf")
    assert len(sync.list_workflows()) == 1
    sync.close()


# --- the process ----------------------------------------------------------------------------------


def test_nothing_of_the_process_is_replaced(address: str) -> None:
    """Elsewhere clocks and dice are replaced for the whole process while a handler runs. Here the
    step has its own: those of the process are what they were, also inside the handler."""
    before = time.time, random.random, asyncio.sleep  # noqa: TID251
    inside: list[bool] = []

    async def body(step: Step, app: App) -> Any:
        inside.append((time.time, random.random, asyncio.sleep) == before)  # noqa: TID251
        return [step.random.random(), str(step.uuid4())]

    value, _ = play(address, body)  # the same numbers live and replayed
    assert inside == [True, True]
    assert 0 <= value[0] < 1

"""Every verb of `Step`, as a workflow uses it, through the public door.

Each test is one workflow, run to its end by a manager in memory.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from perdure import (
    ActionContext,
    DefinitionError,
    EventNotFound,
    LimitExceeded,
    Limits,
    MutationContext,
    QueryContext,
    RetryPolicy,
    Step,
    StepCanceled,
    StepFailed,
    ValidationError,
    WorkflowManager,
    define_event,
)
from perdure.step import due_ms, from_ms, instant_ms

LONG = 30
go = define_event("go", int)
manager = WorkflowManager(":memory:", limits=Limits(value_bytes=10_000))
stranger = WorkflowManager(":memory:")


class Refused(Exception):
    pass


@manager.query
def one(ctx: QueryContext) -> int:
    return int(ctx.db.execute("SELECT 1").fetchone()[0])


@manager.query
def write(ctx: QueryContext) -> None:
    ctx.db.execute("CREATE TABLE things (x)")


@manager.mutation
def add(ctx: MutationContext, n: int) -> int:
    ctx.db.execute("CREATE TABLE IF NOT EXISTS numbers (n INTEGER)")
    ctx.db.execute("INSERT INTO numbers VALUES (?)", (n,))
    return int(ctx.db.execute("SELECT sum(n) FROM numbers").fetchone()[0])


@manager.action(raises=Refused)
async def echo(ctx: ActionContext, value: str = "echo") -> str:
    if value == "refuse":
        raise Refused("by", 2)
    if value == "fail":
        raise OSError("boom")
    return value


@manager.action
async def hang(ctx: ActionContext) -> None:
    await asyncio.get_running_loop().create_future()


@manager.workflow
async def child(step: Step, value: int) -> int:
    if value < 0:
        raise ValueError("below zero")
    return value + 1


@stranger.action
async def foreign(ctx: ActionContext) -> None:
    pass


Body = Callable[[Step], Awaitable[Any]]
bodies: dict[str, Body] = {}


@manager.workflow
async def scripted(step: Step, name: str) -> Any:
    return await bodies[name](step)


def play(body: Body, *events: Any) -> Any:
    """What a workflow with this body returns, after the given events were sent to it."""

    async def main() -> Any:
        bodies["now"] = body
        async with manager:
            workflow_id = await manager.start(scripted("now"), id="wf")
            for value in events:
                await manager.send_event(go, workflow_id=workflow_id, value=value)
            return await manager.result(workflow_id, timeout=LONG)

    return asyncio.run(main())


# --- the verbs


def test_functions_of_each_kind() -> None:
    """Query, mutation, action and workflow give what they return, inline or not."""

    async def body(step: Step) -> Any:
        return [
            await step.run_query(one()),
            await step.run_query(one(), inline=True),
            await step.run_mutation(add(2)),
            await step.run_mutation(add(3), inline=True),
            await step.run_action(echo("hi")),
            await step.run_workflow(child(1)),
        ]

    assert play(body) == [1, 1, 2, 5, "hi", 2]


def test_a_query_cannot_write() -> None:
    """The step fails; nothing was written."""

    async def body(step: Step) -> Any:
        try:
            await step.run_query(write())
        except StepFailed as failure:
            return failure.error.message
        return "written"

    assert "a query must not write" in play(body)


def test_names_and_ids() -> None:
    """A step has the name it was given, a child the id."""

    async def body(step: Step) -> Any:
        await step.run_action(echo(), name="shout")
        await step.run_workflow(child(1), workflow_id="the-child", name="born")
        return step.workflow_id

    async def main() -> Any:
        bodies["now"] = body
        async with manager:
            workflow_id = await manager.start(scripted("now"))
            assert await manager.result(workflow_id, timeout=LONG) == workflow_id
            steps = (await manager.list_steps(workflow_id)).items
            assert await manager.result("the-child") == 2
            return [(step.name, step.child_id) for step in steps]

    assert asyncio.run(main()) == [("shout", None), ("born", "the-child")]


def test_delays() -> None:
    """A step may start later, or at a time; one in the past is now."""
    past = datetime(2020, 1, 1, tzinfo=UTC)

    async def body(step: Step) -> Any:
        before = step.now()
        first = await step.run_action(echo(), run_after=timedelta(milliseconds=2))
        assert step.now() - before >= timedelta(milliseconds=2)
        await step.run_mutation(add(1), run_after=0.001)
        await step.run_query(one(), run_at=past)
        await step.run_workflow(child(1), run_after=0)
        return first

    assert play(body) == "echo"


def test_sleeps() -> None:
    """For a duration or until a time; never shorter than asked for."""

    async def body(step: Step) -> Any:
        before = step.now()
        await step.sleep(0.002)
        await step.sleep_until(before)
        await step.sleep(timedelta(milliseconds=3), name="nap")
        await asyncio.sleep(0.001)
        return step.now() - before >= timedelta(milliseconds=6)

    assert play(body) is True


def test_events() -> None:
    """By definition or name, in the order sent; without one in time, TimeoutError."""

    async def body(step: Step) -> Any:
        got = [await step.await_event(go), await step.await_event("go")]
        try:
            await step.await_event(go, timeout=0.001)
        except TimeoutError:
            got.append(0)
        return got

    assert play(body, 1, 2) == [1, 2, 0]


def test_an_unknown_event_id() -> None:
    """The await fails, and the workflow may catch it."""

    async def body(step: Step) -> Any:
        with pytest.raises(EventNotFound):
            await step.await_event(id="nowhere")
        return "caught"

    assert play(body) == "caught"


def test_declared_errors_come_back_as_themselves() -> None:
    """An error named in `raises=` is raised again with its arguments; it is not retried."""

    async def body(step: Step) -> Any:
        try:
            await step.run_action(echo("refuse"), retry=True)
        except Refused as error:
            return list(error.args)
        return "nothing"

    assert play(body) == ["by", 2]


def test_a_failed_step() -> None:
    """It raises StepFailed with type, message, name and attempts."""

    async def body(step: Step) -> Any:
        try:
            await step.run_action(echo("fail"), name="loud")
        except StepFailed as failure:
            return [failure.error.type, failure.error.message, failure.step_name]
        return "nothing"

    assert play(body) == ["OSError", "boom", "loud"]


def test_the_number_of_attempts_is_told() -> None:
    """StepFailed says how many attempts were started."""
    policy = RetryPolicy(max_attempts=3, initial_backoff=0.001)

    async def body(step: Step) -> Any:
        try:
            await step.run_action(echo("fail"), retry=policy)
        except StepFailed as failure:
            return failure.attempts
        return 0

    assert play(body) == 3


def test_a_failed_child() -> None:
    """A child's failure is its step's, with the type of what it raised."""

    async def body(step: Step) -> Any:
        try:
            await step.run_workflow(child(-1))
        except StepFailed as failure:
            return failure.error.type
        return "nothing"

    assert play(body) == "ValueError"


def test_a_canceled_child() -> None:
    """A child canceled from outside raises StepCanceled."""

    async def body(step: Step) -> Any:
        bodies["child"] = waiting
        with pytest.raises(StepCanceled):
            await step.run_workflow(scripted("child"), workflow_id="victim")
        return "told"

    async def waiting(step: Step) -> None:
        await step.await_event("never")

    async def main() -> Any:
        bodies["now"] = body
        async with manager:
            workflow_id = await manager.start(scripted("now"))
            while len((await manager.list_workflows()).items) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0)
            await manager.cancel("victim")
            return await manager.result(workflow_id, timeout=LONG)

    assert asyncio.run(main()) == "told"


# --- races


def test_gathering_runs_side_by_side() -> None:
    """Steps start when they are called; gather keeps their order."""

    async def body(step: Step) -> Any:
        return await asyncio.gather(*[step.run_action(echo(str(n))) for n in range(20)])

    assert play(body) == [str(n) for n in range(20)]


def test_the_first_of_several() -> None:
    """`wait` returns with the first; what is cancelled is canceled as a step too."""

    async def body(step: Step) -> Any:
        fast: asyncio.Future[Any] = step.run_action(echo())
        slow: asyncio.Future[Any] = step.run_action(hang())
        done, pending = await asyncio.wait([fast, slow], return_when=asyncio.FIRST_COMPLETED)
        for future in pending:
            future.cancel()
        return [fast in done, slow in pending]

    async def main() -> Any:
        bodies["now"] = body
        async with manager:
            workflow_id = await manager.start(scripted("now"))
            assert await manager.result(workflow_id, timeout=LONG) == [True, True]
            steps = (await manager.list_steps(workflow_id)).items
            return [(step.name, step.status) for step in steps]

    assert asyncio.run(main()) == [("echo", "success"), ("hang", "canceled")]


def test_a_deadline() -> None:
    """`asyncio.timeout` is a durable deadline, whatever runs inside."""

    async def body(step: Step) -> Any:
        try:
            async with asyncio.timeout(0.01):
                await step.run_action(hang())
        except TimeoutError:
            return "late"
        return "in time"

    assert play(body) == "late"


def test_wait_for_and_shield() -> None:
    """`wait_for` cancels what it waited for, but not what is shielded."""

    async def body(step: Step) -> Any:
        event = step.await_event(go)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(event), 0.001)
        step.run_action(echo())
        return await event

    async def main() -> Any:
        bodies["now"] = body
        async with manager:
            workflow_id = await manager.start(scripted("now"))
            while len((await manager.list_steps(workflow_id)).items) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0)
            await manager.send_event(go, workflow_id=workflow_id, value=5)
            return await manager.result(workflow_id, timeout=LONG)

    assert asyncio.run(main()) == 5


def test_a_task_group() -> None:
    """The failure of one cancels the others, and is raised as a group."""

    async def fails(step: Step) -> None:
        await step.run_action(echo("fail"))

    async def hangs(step: Step) -> None:
        await step.run_action(hang())

    async def body(step: Step) -> Any:
        count = 0
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(hangs(step))
                group.create_task(fails(step))
        except* StepFailed as failures:
            count = len(failures.exceptions)
        return count

    assert play(body) == 1


def test_as_completed() -> None:
    """Results come in the order in which they are there."""

    async def body(step: Step) -> Any:
        futures: list[asyncio.Future[Any]] = [step.sleep(0.02), step.run_action(echo("first"))]
        return [await future for future in asyncio.as_completed(futures)]

    assert play(body) == ["first", None]


# --- what stands still on a replay


def test_time_chance_and_log_are_repeatable() -> None:
    """`now`, `random` and `uuid4` are the same on each replay; the logger is silent then."""
    seen: list[Any] = []

    async def body(step: Step) -> Any:
        here: list[Any] = [step.now(), step.random.random(), step.uuid4()]
        seen.append(here)
        step.logger.warning("at work")
        assert here[2].version == 4
        assert isinstance(here[2], uuid.UUID)
        assert step.now() == here[0]
        await step.await_event(go)
        return [step.random.random(), str(step.uuid4()), step.with_options().random.random()]

    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[assignment, method-assign]
    logger = logging.getLogger("perdure.workflow.scripted")
    logger.addHandler(handler)
    try:
        # It waits for its event without an owner, and is replayed when that comes.
        async def main() -> Any:
            bodies["now"] = body
            async with manager:
                workflow_id = await manager.start(scripted("now"))
                while not seen:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                await manager.send_event(go, workflow_id=workflow_id, value=5)
                return await manager.result(workflow_id, timeout=LONG)

        result = asyncio.run(main())
    finally:
        logger.removeHandler(handler)
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert len({*result, *map(str, seen[0])}) == 6
    assert [record.getMessage() for record in records] == ["at work"]
    assert records[0].__dict__["workflow_id"]


# --- options


def test_defaults_for_several_steps() -> None:
    """`with_options` gives a Step whose steps are retried, for example, by default."""
    policy = RetryPolicy(max_attempts=2, initial_backoff=0.001)

    async def body(step: Step) -> Any:
        patient = step.with_options(retry=policy, unstable_args=True)
        for each, retry in ((step, None), (patient, None), (patient, False)):
            with pytest.raises(StepFailed):
                await each.run_action(echo("fail"), retry=retry)

    async def main() -> Any:
        bodies["now"] = body
        async with manager:
            workflow_id = await manager.start(scripted("now"))
            await manager.result(workflow_id, timeout=LONG)
            return [step.attempts for step in await manager.list_steps(workflow_id)]

    assert asyncio.run(main()) == [1, 2, 1]


wrong: Any = echo
naive = datetime(2030, 1, 1)  # noqa: DTZ001  refused for it

# The wrong types are the point: so the parameter is `Any` to type checkers.
OPTIONS: list[tuple[Callable[[Any], Any], type[Exception], str]] = [
    (lambda s: s.run_query(add(1)), TypeError, "use run_mutation"),
    (lambda s: s.run_mutation(one()), TypeError, "use run_query"),
    (lambda s: s.run_action(child(1)), TypeError, "use run_workflow"),
    (lambda s: s.run_workflow(echo()), TypeError, "use run_action"),
    (lambda s: s.run_action(echo), TypeError, "call it"),
    (lambda s: s.run_action("echo"), TypeError, "give a call"),
    (lambda s: s.run_action(foreign()), DefinitionError, "not registered"),
    (lambda s: s.run_action(wrong(5)), ValidationError, "value"),
    (lambda s: s.run_action(echo("x" * 10_000)), LimitExceeded, "10,?000"),
    (lambda s: s.run_action(echo(), name=""), ValueError, "name"),
    (lambda s: s.run_action(echo(), name="n" * 201), LimitExceeded, "200"),
    (lambda s: s.run_action(echo(), name=1), TypeError, "name"),
    (lambda s: s.run_action(echo(), retry=3), TypeError, "retry"),
    (lambda s: s.run_action(echo(), timeout=0), ValueError, "timeout"),
    (lambda s: s.run_action(echo(), run_after=1, run_at=from_ms(0)), ValueError, "not both"),
    (lambda s: s.run_action(echo(), run_after=-1), ValueError, "negative"),
    (lambda s: s.run_action(echo(), run_at=5), TypeError, "datetime"),
    (lambda s: s.run_action(echo(), run_at=naive), ValueError, "zone"),
    (lambda s: s.run_mutation(add(1), inline=True, run_after=0), ValueError, "inline"),
    (lambda s: s.run_query(one(), inline=True, run_at=from_ms(0)), ValueError, "inline"),
    (lambda s: s.run_workflow(child(1), workflow_id=""), ValueError, "workflow_id"),
    (lambda s: s.sleep(-1), ValueError, "negative"),
    (lambda s: s.sleep("1"), TypeError, "duration"),
    (lambda s: s.sleep(float("inf")), ValueError, "finite"),
    (lambda s: s.sleep(timedelta(days=40_000)), ValueError, "100 years"),
    (lambda s: s.sleep_until(5), TypeError, "datetime"),
    (lambda s: s.await_event(), ValueError, "give an event"),
    (lambda s: s.await_event("go", timeout=-1), ValueError, "negative"),
    (lambda s: s.await_event(id=""), ValueError, "id"),
    (lambda s: s.with_options(retry="often"), TypeError, "retry"),
]


def test_bad_options_are_refused_at_the_call() -> None:
    """A catchable error that names what is wrong; nothing is journaled."""
    refusals: list[str] = []

    async def body(step: Step) -> Any:
        for ask, error, match in OPTIONS:
            with pytest.raises(error, match=match) as caught:
                ask(step)
            refusals.append(str(caught.value))
        return len(refusals)

    async def main() -> Any:
        bodies["now"] = body
        async with manager:
            workflow_id = await manager.start(scripted("now"))
            count = await manager.result(workflow_id, timeout=LONG)
            return count, (await manager.list_steps(workflow_id)).items

    assert asyncio.run(main()) == (len(OPTIONS), [])


# --- the helpers


def test_instants_are_rounded_up() -> None:
    """A time is never earlier than what was asked for; only times with a zone are instants."""
    base = datetime(1970, 1, 1, tzinfo=UTC)
    assert instant_ms(base + timedelta(microseconds=1), "when") == 1
    assert instant_ms(base + timedelta(milliseconds=1), "when") == 1
    assert instant_ms(base - timedelta(microseconds=1), "when") == 0
    assert from_ms(1500) == base + timedelta(seconds=1.5)


def test_due_times() -> None:
    """A delay counts from now; a time stands for itself; neither is no time at all."""
    assert due_ms(None, None, 1000) is None
    assert due_ms(2, None, 1000) == 3000
    assert due_ms(timedelta(microseconds=1), None, 1000) == 1001
    assert due_ms(None, from_ms(5), 1000) == 5


class Markup(str):
    """Text of a class of its own, as template engines have it."""

    __slots__ = ()


def test_text_of_a_subclass_is_text() -> None:
    """In each place where a name or an id is given: what is stored is the text."""
    shout = define_event(Markup("shout"), str)

    @manager.workflow
    async def marked(step: Step) -> list[object]:
        heard = await step.await_event(shout)
        by_name = await step.await_event(Markup("whisper"))
        one_id = await step.run_workflow(child(1), workflow_id=Markup(f"{step.workflow_id}-x"))
        return [heard, by_name, one_id]

    async def test() -> object:
        async with manager:
            workflow_id = await manager.start(marked())
            await manager.send_event(shout, workflow_id=Markup(workflow_id), value="ah")
            await manager.send_event(Markup("whisper"), workflow_id=workflow_id, value="oh")
            return await manager.result(workflow_id, timeout=LONG)

    assert asyncio.run(test())[:2] == ["ah", "oh"]  # type: ignore[index]

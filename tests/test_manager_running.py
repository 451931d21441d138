"""Running under a manager: attempts, and code against journals."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.managers import FAST, LONG, call, define, make, number_event, run

from perdure import (
    ActionContext,
    CalledInside,
    Event,
    InProgress,
    Limits,
    MutationContext,
    NonRetryableError,
    PerdureError,
    RetryPolicy,
    Step,
    StepFailed,
    WorkflowFailed,
    WorkflowManager,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture
def manager(path: Path) -> WorkflowManager:
    """A manager with workflows that most tests can use."""
    made = make(path)
    define(made)
    return made


# --- attempts


def test_retries_until_it_works(manager: WorkflowManager) -> None:
    """A failed attempt is repeated by the policy; each sees its number and the same key."""
    seen: list[tuple[int, str]] = []

    @manager.action(retry=FAST)
    async def flaky(ctx: ActionContext) -> int:
        seen.append((ctx.attempt, ctx.idempotency_key))
        if ctx.attempt < 3:
            raise OSError("down")
        return ctx.attempt

    @manager.workflow
    async def trying(step: Step) -> int:
        return await step.run_action(flaky())

    async def test(m: WorkflowManager) -> Any:
        return await m.result(await m.start(trying()), timeout=LONG)

    assert run(test, manager) == 3
    assert [attempt for attempt, _ in seen] == [1, 2, 3]
    assert len({key for _, key in seen}) == 1


@pytest.mark.parametrize(
    ("error", "attempts"), [(OSError("x"), 3), (NonRetryableError("x"), 1), (KeyError("x"), 1)]
)
def test_retries_end(manager: WorkflowManager, error: Exception, attempts: int) -> None:
    """After the last attempt, or at once for what cannot get better, the step fails."""
    policy = RetryPolicy(max_attempts=3, initial_backoff=0.001, non_retryable=(LookupError,))
    seen: list[int] = []

    @manager.action
    def hopeless(ctx: ActionContext) -> None:
        seen.append(ctx.attempt)
        raise error

    @manager.workflow
    async def trying(step: Step) -> str:
        try:
            await step.run_action(hopeless(), retry=policy)
        except StepFailed as failure:
            return failure.error.type
        return "nothing"

    async def test(m: WorkflowManager) -> Any:
        return await m.result(await m.start(trying()), timeout=LONG)

    assert run(test, manager) == type(error).__name__
    assert seen == [*range(1, attempts + 1)]


def test_an_attempt_over_its_timeout_fails(manager: WorkflowManager) -> None:
    """A bounded attempt is cancelled, and its step fails with TimeoutError in the end."""
    cancelled = threading.Semaphore(0)

    @manager.action
    async def hang(ctx: ActionContext) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.release()

    @manager.workflow
    async def hanging(step: Step) -> str:
        try:
            await step.run_action(hang(), timeout=0.01, retry=FAST)
        except StepFailed as failure:
            return failure.error.type
        return "nothing"

    async def test(m: WorkflowManager) -> Any:
        result = await m.result(await m.start(hanging()), timeout=LONG)
        for _ in range(3):
            assert await asyncio.to_thread(cancelled.acquire, timeout=LONG)
        return result

    assert run(test, manager) == "TimeoutError"


def test_an_action_uses_the_manager(manager: WorkflowManager) -> None:
    """Actions start, send and run functions, each in a transaction of its own."""

    @manager.action
    async def busy(ctx: ActionContext) -> int:
        workflow_id = await ctx.start(call(manager, "add"), id="other")
        for value in (20, 22):
            await ctx.send_event(number_event, workflow_id=workflow_id, value=value)
        await ctx.run_mutation(call(manager, "put", "x"))
        return int(await ctx.run_query(call(manager, "count")))

    @manager.workflow
    async def using(step: Step) -> int:
        return await step.run_action(busy())

    async def test(m: WorkflowManager) -> Any:
        first = await m.result(await m.start(using()), timeout=LONG)
        return first, await m.result("other", timeout=LONG)

    assert run(test, manager) == (1, 42)


# --- code and journal


def test_code_that_does_not_fit_blocks_and_mended_code_goes_on(path: Path) -> None:
    """A bad deploy ends nobody's workflow: the next good one takes it up where it was."""

    def deploy(names: list[str]) -> WorkflowManager:
        manager = make(path)

        @manager.action
        async def name(ctx: ActionContext, text: str) -> str:
            return text

        @manager.workflow
        async def flow(step: Step) -> list[str]:
            got = [await step.run_action(name(text)) for text in names]
            return [*got, await step.await_event("go")]

        return manager

    async def begin(m: WorkflowManager) -> None:
        await m.start(call(m, "flow"), id="wf")
        while "go" not in {step.name for step in await m.list_steps("wf")}:  # noqa: ASYNC110
            await asyncio.sleep(0)

    async def break_it(m: WorkflowManager) -> Any:
        await m.send_event("go", workflow_id="wf", value="end")
        while True:
            status = await m.status("wf")
            assert isinstance(status, InProgress)
            if status.blocked is not None:
                return status.blocked

    async def mend(m: WorkflowManager) -> Any:
        return await m.result("wf", timeout=LONG)

    run(begin, deploy(["a", "b"]))
    blocked = run(break_it, deploy(["b", "a"]))
    assert blocked.type == "DeterminismError"
    assert "journal is right" in blocked.message
    assert run(mend, deploy(["a", "b"])) == ["a", "b", "end"]


DAMAGES = {
    "the options of a step": ("perdure_steps", "options", "workflow_id = 'bad' AND number = 1"),
    "a value": ("perdure_steps", "value", "workflow_id = 'bad' AND number = 0"),
    "the arguments": ("perdure_workflows", "arguments", "id = 'bad'"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_workflow_harms_no_other(path: Path, what: str) -> None:
    """It waits, and says what cannot be read; it goes on when that is there again."""
    manager = make(path)
    define(manager)

    @manager.workflow
    async def count_and_wait(step: Step, n: int) -> int:
        await step.run_query(call(manager, "count"))
        return n + await step.await_event(number_event)

    async def begin(m: WorkflowManager) -> None:
        for name in ("bad", "good"):
            await m.start(call(m, "count_and_wait", 1), id=name)
            while len(await m.list_steps(name)) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0)

    async def go_on(m: WorkflowManager) -> Any:
        for name in ("bad", "good"):
            await m.send_event(number_event, workflow_id=name, value=1)
        result = await m.result("good", timeout=LONG)
        while True:
            statuses = {info.workflow_id: info.status for info in await m.list_workflows()}
            bad = statuses["bad"]
            assert isinstance(bad, InProgress)
            if bad.blocked is not None:
                return result, bad.blocked

    async def mended(m: WorkflowManager) -> Any:
        return await m.result("bad", timeout=LONG)

    run(begin, manager)
    table, column, place = DAMAGES[what]
    with contextlib.closing(sqlite3.connect(path)) as db:
        (before,) = db.execute(f"SELECT {column} FROM {table} WHERE {place}").fetchone()
        db.execute(f"UPDATE {table} SET {column} = 'oops' WHERE {place}")
        db.commit()
    result, blocked = run(go_on, manager)
    assert result == 2
    assert "JSON is malformed" in blocked.message
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(f"UPDATE {table} SET {column} = ? WHERE {place}", (before,))
        db.commit()
    assert run(mended, manager) == 2


def test_a_handler_may_not_open_a_socket(manager: WorkflowManager) -> None:
    """What a replay could not repeat is refused, and named, where it is done."""

    @manager.workflow
    async def calling_home(step: Step) -> str:
        connect = getattr(socket, "create_" + "connection")  # unseen by the definition's check
        try:
            connect(("127.0.0.1", 9))
        except PerdureError as error:
            return type(error).__name__
        return "connected"

    async def test(m: WorkflowManager) -> Any:
        return await m.result(await m.start(calling_home()), timeout=LONG)

    assert run(test, manager) == "DeterminismError"


def test_the_manager_refuses_calls_from_inside(manager: WorkflowManager) -> None:
    """In a handler, mutation or query each call names the verb to use instead."""

    @manager.mutation
    def asking(ctx: MutationContext) -> None:
        asyncio.run(manager.start(call(manager, "wait")))

    @manager.workflow
    async def asking_in_handler(step: Step) -> None:
        await manager.start(call(manager, "wait"))

    async def test(m: WorkflowManager) -> None:
        with pytest.raises(CalledInside, match=r"ctx\.start"):
            await m.run_mutation(asking())
        with pytest.raises(WorkflowFailed, match="CalledInside"):
            await m.result(await m.start(asking_in_handler()), timeout=LONG)

    run(test, manager)


def test_an_overfull_journal_fails_the_workflow(path: Path) -> None:
    """The limit is the manager's to set; what goes over it ends, and says so."""
    manager = make(path, limits=Limits(journal_bytes=2000))

    @manager.action
    async def text(ctx: ActionContext) -> str:
        return "x" * 500

    @manager.workflow
    async def hoarding(step: Step) -> None:
        while True:
            await step.run_action(text())

    async def test(m: WorkflowManager) -> None:
        with pytest.raises(WorkflowFailed, match="over the limit of 2000"):
            await m.result(await m.start(hoarding()), timeout=LONG)

    run(test, manager)


# --- opening and closing


def test_events_are_typed_by_their_definition() -> None:
    """`define_event` gives a name and a type, which both sides share."""
    assert isinstance(number_event, Event)
    assert number_event.name == "number"


def engines() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "perdure-engine"]

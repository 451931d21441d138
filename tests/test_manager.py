"""The manager through its public door, with real threads and loops, on a file.

Nothing here sleeps: a test waits for a result, with a timeout that only a bug reaches.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from perdure import (
    ActionContext,
    CalledInside,
    Canceled,
    DefinitionError,
    Event,
    Failed,
    InProgress,
    Limits,
    MutationContext,
    NonRetryableError,
    NotOpen,
    Outcome,
    PerdureError,
    QueryContext,
    RetryPolicy,
    Step,
    StepFailed,
    StoreError,
    Succeeded,
    ValidationError,
    WorkflowCanceled,
    WorkflowFailed,
    WorkflowIdConflict,
    WorkflowManager,
    WorkflowNotFound,
    WorkflowNotRunning,
    define_event,
)

#: Seconds after which a test has failed: far above what anything here takes.
LONG = 30

FAST = RetryPolicy(max_attempts=3, initial_backoff=0.001, jitter=False)
number_event = define_event("number", int)


def make(path: Path | str, **options: Any) -> WorkflowManager:
    return WorkflowManager(str(path), durability="process", **options)


def run(test: Callable[[WorkflowManager], Awaitable[Any]], manager: WorkflowManager) -> Any:
    """Run a test's coroutine inside an open manager."""

    async def main() -> Any:
        async with manager:
            return await test(manager)

    return asyncio.run(main())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture
def manager(path: Path) -> WorkflowManager:
    """A manager with workflows that most tests can use."""
    made = make(path)
    define(made)
    return made


def define(manager: WorkflowManager) -> None:
    @manager.mutation
    def put(ctx: MutationContext, text: str) -> int:
        ctx.db.execute("CREATE TABLE IF NOT EXISTS notes (text TEXT)")
        cursor = ctx.db.execute("INSERT INTO notes VALUES (?)", (text,))
        return int(cursor.lastrowid or 0)

    @manager.query
    def count(ctx: QueryContext) -> int:
        tables = ctx.db.execute("SELECT name FROM sqlite_master WHERE name = 'notes'").fetchall()
        return int(ctx.db.execute("SELECT count(*) FROM notes").fetchone()[0]) if tables else 0

    @manager.action
    async def double(ctx: ActionContext, n: int) -> int:
        return 2 * n

    @manager.action
    def double_in_thread(ctx: ActionContext, n: int) -> int:
        return 2 * n

    @manager.workflow
    async def everything(step: Step, n: int) -> list[int]:
        first = await step.run_action(double(n))
        second = await step.run_action(double_in_thread(first))
        await step.run_mutation(put("x"))
        await step.sleep(0.001)
        return [first, second, await step.run_query(count())]

    @manager.workflow
    async def add(step: Step) -> int:
        return await step.await_event(number_event) + await step.await_event(number_event)

    @manager.workflow
    async def wait(step: Step) -> None:
        await step.await_event("never")

    @manager.workflow
    async def fail(step: Step, text: str) -> None:
        raise ValueError(text)


def call(manager: WorkflowManager, name: str, *args: Any) -> Any:
    """A call of one of the manager's definitions, by name."""
    definition = manager.registry.get(name)
    assert definition is not None
    return definition(*args)


# --- starting and waiting


def test_a_workflow_from_start_to_result(manager: WorkflowManager) -> None:
    """Each kind of step, each in its own place, and the result decoded into its type."""

    async def test(m: WorkflowManager) -> Any:
        workflow_id = await m.start(call(m, "everything", 3))
        return await m.result(workflow_id, timeout=LONG)

    assert run(test, manager) == [6, 12, 1]


@pytest.mark.parametrize("store", [":memory:", "sqlite:///{path}"])
def test_every_address_works(path: Path, store: str) -> None:
    """In memory, or as an address with three slashes."""
    manager = make(store.format(path=path))
    define(manager)

    async def test(m: WorkflowManager) -> Any:
        workflow_id = await m.start(call(m, "everything", 3))
        assert isinstance(await m.status(workflow_id), InProgress | Succeeded)
        return await m.result(workflow_id, timeout=LONG)

    assert run(test, manager) == [6, 12, 1]


def test_many_workflows_at_once(manager: WorkflowManager) -> None:
    """A hundred callers, each with its own result."""

    async def one(n: int) -> Any:
        workflow_id = await manager.start(call(manager, "everything", n))
        return (await manager.result(workflow_id, timeout=LONG))[0]

    async def test(_: WorkflowManager) -> Any:
        return await asyncio.gather(*[one(n) for n in range(100)])

    assert run(test, manager) == [2 * n for n in range(100)]


def test_a_failure_is_raised_with_its_cause(manager: WorkflowManager) -> None:
    """`result` raises what happened, `status` shows it."""

    async def test(m: WorkflowManager) -> None:
        workflow_id = await m.start(call(m, "fail", "my fault"))
        with pytest.raises(WorkflowFailed, match="my fault") as caught:
            await m.result(workflow_id, timeout=LONG)
        assert caught.value.workflow_id == workflow_id
        assert caught.value.error.type == "ValueError"
        assert "raise ValueError(text)" in caught.value.error.traceback
        status = await m.status(workflow_id)
        assert isinstance(status, Failed)
        assert status.kind == "failed"

    run(test, manager)


def test_a_result_may_be_waited_for_in_vain(manager: WorkflowManager) -> None:
    """The timeout is the caller's: the workflow goes on."""

    async def test(m: WorkflowManager) -> None:
        workflow_id = await m.start(call(m, "wait"))
        with pytest.raises(TimeoutError, match="has not ended"):
            await m.result(workflow_id, timeout=0.01)
        status = await m.status(workflow_id)
        assert isinstance(status, InProgress)
        assert [step.name for step in status.running] == ["never"]

    run(test, manager)


def test_a_delayed_start(manager: WorkflowManager) -> None:
    """A run time in the past is now; in the future, the workflow waits for it."""

    async def test(m: WorkflowManager) -> None:
        past = datetime(2020, 1, 1, tzinfo=UTC)
        future = datetime(2100, 1, 1, tzinfo=UTC)
        soon = await m.start(call(m, "everything", 1), run_at=past)
        late = await m.start(call(m, "everything", 1), run_at=future)
        brief = await m.start(call(m, "everything", 1), run_after=0.001)
        assert (await m.result(soon, timeout=LONG))[0] == 2
        assert (await m.result(brief, timeout=LONG))[0] == 2
        assert isinstance(await m.status(late), InProgress)
        assert (await m.list_steps(late)).items == []

    run(test, manager)


def test_an_id_makes_a_start_idempotent(manager: WorkflowManager) -> None:
    """The same id with another call is a conflict."""

    async def test(m: WorkflowManager) -> None:
        ids = [await m.start(call(m, "everything", 1), id="one") for _ in range(2)]
        assert ids == ["one", "one"]
        with pytest.raises(WorkflowIdConflict):
            await m.start(call(m, "everything", 2), id="one")

    run(test, manager)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"id": ""}, ValueError),
        ({"id": 5}, TypeError),
        ({"run_after": 1, "run_at": datetime(2030, 1, 1, tzinfo=UTC)}, ValueError),
        ({"run_after": -1}, ValueError),
        ({"run_at": datetime(2030, 1, 1)}, ValueError),  # noqa: DTZ001  the point of the test
        ({"on_complete": "put"}, TypeError),
        ({"context": object()}, ValidationError),
    ],
)
def test_bad_options_are_refused_before_anything_is_stored(
    manager: WorkflowManager, options: dict[str, Any], error: type[Exception]
) -> None:
    """A clear error at the call, and no workflow."""

    async def test(m: WorkflowManager) -> None:
        with pytest.raises(error):
            await m.start(call(m, "everything", 1), **options)
        with pytest.raises(ValidationError, match="n"):
            await m.start(call(m, "everything", "text"))
        assert (await m.list_workflows()).items == []

    run(test, manager)


# --- managing


def test_cancel(manager: WorkflowManager) -> None:
    """Done when it returns; a second one finds that the workflow has ended."""

    async def test(m: WorkflowManager) -> None:
        workflow_id = await m.start(call(m, "wait"))
        await m.cancel(workflow_id)
        assert isinstance(await m.status(workflow_id), Canceled)
        with pytest.raises(WorkflowCanceled):
            await m.result(workflow_id, timeout=LONG)
        with pytest.raises(WorkflowNotRunning):
            await m.cancel(workflow_id)

    run(test, manager)


def test_a_waiting_result_hears_of_a_cancel(manager: WorkflowManager) -> None:
    """Whoever waits is told at once."""

    async def test(m: WorkflowManager) -> None:
        workflow_id = await m.start(call(m, "wait"))
        waiting = asyncio.create_task(m.result(workflow_id, timeout=LONG))
        await asyncio.sleep(0)
        await m.cancel(workflow_id)
        with pytest.raises(WorkflowCanceled):
            await waiting

    run(test, manager)


def test_unknown_ids_are_errors(manager: WorkflowManager) -> None:
    """Each call about a workflow says that there is none."""

    async def test(m: WorkflowManager) -> None:
        for asked in (m.status("x"), m.result("x"), m.cancel("x")):
            with pytest.raises(WorkflowNotFound):
                await asked
        with pytest.raises(WorkflowNotFound):
            await m.send_event(number_event, workflow_id="x", value=1)
        with pytest.raises(TypeError, match="the id that start"):
            await m.status(5)  # type: ignore[arg-type]
        assert (await m.list_steps("x")).items == []

    run(test, manager)


def test_events_reach_a_workflow(manager: WorkflowManager) -> None:
    """Sent before or after they are awaited; the payload is checked when it is sent."""

    async def test(m: WorkflowManager) -> Any:
        workflow_id = await m.start(call(m, "add"))
        with pytest.raises(ValidationError):
            await m.send_event(number_event, workflow_id=workflow_id, value="1")
        for value in (1, 2):
            await m.send_event(number_event, workflow_id=workflow_id, value=value)
        return await m.result(workflow_id, timeout=LONG)

    assert run(test, manager) == 3


def test_an_event_can_be_an_error(manager: WorkflowManager) -> None:
    """The await raises StepFailed with its text."""

    async def test(m: WorkflowManager) -> None:
        workflow_id = await m.start(call(m, "add"))
        await m.send_event(number_event, workflow_id=workflow_id, error="sorry")
        with pytest.raises(WorkflowFailed, match="sorry"):
            await m.result(workflow_id, timeout=LONG)
        with pytest.raises(ValueError, match="not both"):
            await m.send_event("x", workflow_id=workflow_id, value=1, error="y")
        with pytest.raises(ValueError, match="give an event"):
            await m.send_event(workflow_id=workflow_id)

    run(test, manager)


def test_functions_from_outside(manager: WorkflowManager) -> None:
    """A query and a mutation in one transaction each; their exceptions are the caller's."""

    @manager.mutation
    def spoil(ctx: MutationContext) -> None:
        ctx.db.execute("INSERT INTO notes VALUES ('undone')")
        raise KeyError("mine")

    async def test(m: WorkflowManager) -> None:
        assert await m.run_mutation(call(m, "put", "a")) == 1
        with pytest.raises(KeyError, match="mine"):
            await m.run_mutation(spoil())
        assert await m.run_query(call(m, "count")) == 1
        with pytest.raises(TypeError, match="use run_mutation"):
            await m.run_query(call(m, "put", "a"))

    run(test, manager)


def test_a_mutation_starts_a_workflow_with_its_transaction(manager: WorkflowManager) -> None:
    """If it fails, the workflow was never started."""

    @manager.mutation
    def order(ctx: MutationContext, fails: bool) -> str:
        workflow_id = ctx.start(call(manager, "add"), id=f"order-{fails}")
        ctx.send_event(number_event, workflow_id=workflow_id, value=1)
        ctx.send_event(number_event, workflow_id=workflow_id, value=2)
        if fails:
            raise ValueError("no")
        return workflow_id

    async def test(m: WorkflowManager) -> Any:
        with pytest.raises(ValueError, match="no"):
            await m.run_mutation(order(True))
        workflow_id = await m.run_mutation(order(False))
        assert [info.workflow_id for info in await m.list_workflows()] == ["order-False"]
        return await m.result(workflow_id, timeout=LONG)

    assert run(test, manager) == 3


def test_listing_in_pages(manager: WorkflowManager) -> None:
    """Pages follow each other without gap or overlap, in both directions, filtered or not."""

    async def pages(m: WorkflowManager, **options: Any) -> AsyncIterator[str]:
        cursor = None
        while True:
            page = await m.list_workflows(limit=2, cursor=cursor, **options)
            for info in page:
                yield info.workflow_id
            if page.is_done:
                return
            cursor = page.cursor

    async def test(m: WorkflowManager) -> None:
        ids = [await m.start(call(m, "wait"), id=f"w{n}") for n in range(5)]
        await m.cancel("w2")
        assert [each async for each in pages(m)] == ids
        assert [each async for each in pages(m, order="desc")] == ids[::-1]
        assert [each async for each in pages(m, status="canceled")] == ["w2"]
        assert [each async for each in pages(m, name="add")] == []
        for options in ({"limit": 0}, {"order": "up"}, {"cursor": "x"}, {"status": "lost"}):
            with pytest.raises(ValueError, match="give"):
                await m.list_workflows(**options)  # type: ignore[arg-type]

    run(test, manager)


def test_records_show_plain_values(manager: WorkflowManager) -> None:
    """Arguments, context, steps and their values, as JSON values, with times in UTC."""

    async def test(m: WorkflowManager) -> None:
        workflow_id = await m.start(call(m, "everything", 3), context={"who": "me"})
        await m.result(workflow_id, timeout=LONG)
        (info,) = await m.list_workflows()
        assert (info.arguments, info.context) == ({"n": 3}, {"who": "me"})
        assert info.status == Succeeded([6, 12, 1])
        assert info.ended_at is not None
        assert info.ended_at.tzinfo is UTC
        assert info.created_at <= info.ended_at
        steps = (await m.list_steps(workflow_id)).items
        assert [(s.number, s.name, s.kind, s.status, s.value) for s in steps] == [
            (0, "double", "action", "success", 6),
            (1, "double_in_thread", "action", "success", 12),
            (2, "put", "mutation", "success", 1),
            (3, "sleep", "sleep", "success", None),
            (4, "count", "query", "success", 1),
        ]
        page = await m.list_steps(workflow_id, order="desc", limit=2)
        assert ([s.number for s in page], page.is_done) == ([4, 3], False)

    run(test, manager)


def test_a_pause_and_its_end(manager: WorkflowManager) -> None:
    """With 0 nothing starts but inline steps; another number lets everything go on."""

    @manager.workflow
    async def inline(step: Step) -> int:
        return await step.run_query(call(manager, "count"), inline=True)

    async def test(m: WorkflowManager) -> Any:
        await m.update_config(max_parallelism=0)
        assert (await m.config()).max_parallelism == 0
        workflow_id = await m.start(call(m, "everything", 3))
        quick = await m.start(inline())
        assert await m.result(quick, timeout=LONG) == 0
        status = await m.status(workflow_id)
        assert isinstance(status, InProgress)
        assert [(s.name, s.attempts) for s in status.running] == [("double", 0)]
        await m.update_config(max_parallelism=1)
        with pytest.raises(ValueError, match="give a number"):
            await m.update_config(max_parallelism=-1)
        return await m.result(workflow_id, timeout=LONG)

    assert run(test, manager) == [6, 12, 1]


@pytest.mark.parametrize("has_context", [True, False])
def test_on_complete(manager: WorkflowManager, has_context: bool) -> None:
    """Once, with the outcome; the parameter `context` may be left out."""
    seen: list[Any] = []

    @manager.mutation(name="with_context")
    def ended(
        ctx: MutationContext, workflow_id: str, outcome: Outcome, context: dict[str, int]
    ) -> None:
        seen.append((workflow_id, outcome, context))

    @manager.mutation
    def ended_plainly(ctx: MutationContext, workflow_id: str, outcome: Outcome) -> None:
        seen.append((workflow_id, outcome, {"n": 1}))

    async def test(m: WorkflowManager) -> None:
        callback = ended if has_context else ended_plainly
        context = {"n": 1}
        good = await m.start(call(m, "everything", 3), on_complete=callback, context=context)
        await m.result(good, timeout=LONG)
        bad = await m.start(call(m, "wait"), on_complete=callback, context=context)
        await m.cancel(bad)
        assert seen == [
            (good, Succeeded([6, 12, 1]), {"n": 1}),
            (bad, Canceled(), {"n": 1}),
        ]
        with pytest.raises(DefinitionError, match="an on_complete takes"):
            put: Any = m.registry.get("put")
            await m.start(call(m, "wait"), on_complete=put)

    run(test, manager)


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
        while not (await m.list_steps("wf")).items[-1:] or (
            (await m.list_steps("wf")).items[-1].name != "go"
        ):
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


def test_a_manager_can_be_opened_again(manager: WorkflowManager) -> None:
    """What was under way goes on where it was."""

    async def begin(m: WorkflowManager) -> None:
        await m.start(call(m, "add"), id="wf")
        await m.send_event(number_event, workflow_id="wf", value=1)

    async def end(m: WorkflowManager) -> Any:
        await m.send_event(number_event, workflow_id="wf", value=2)
        return await m.result("wf", timeout=LONG)

    run(begin, manager)
    assert run(end, manager) == 3


def test_a_closed_manager_says_how_to_open_it(manager: WorkflowManager) -> None:
    """Before the first opening and after the last closing."""

    async def main() -> None:
        with pytest.raises(NotOpen, match="async with"):
            await manager.status("x")
        async with manager:
            with pytest.raises(PerdureError, match="open already"):
                await manager.__aenter__()
        with pytest.raises(NotOpen, match="async with"):
            await manager.start(call(manager, "wait"))

    asyncio.run(main())


def test_closing_ends_every_wait(manager: WorkflowManager) -> None:
    """Who waits for a workflow that will not end here is told, not left waiting."""

    async def main() -> None:
        async with manager:
            workflow_id = await manager.start(call(manager, "wait"))
            waiting = asyncio.create_task(manager.result(workflow_id))
            await asyncio.sleep(0)
        with pytest.raises(NotOpen):
            await asyncio.wait_for(waiting, LONG)

    asyncio.run(main())


def test_a_client_beside_a_worker(manager: WorkflowManager, path: Path) -> None:
    """A manager that is a client only starts, sends and reads; the other one works."""
    worker = make(path)
    define(worker)

    async def main() -> Any:
        async with manager.client(), worker:
            workflow_id = await manager.start(call(manager, "everything", 3))
            first = await manager.result(workflow_id, timeout=LONG)
            workflow_id = await manager.start(call(manager, "add"))
            for value in (1, 2):
                await manager.send_event(number_event, workflow_id=workflow_id, value=value)
            return first, await manager.result(workflow_id, timeout=LONG)

    assert asyncio.run(main()) == ([6, 12, 1], 3)


def test_run_until_idle(manager: WorkflowManager) -> None:
    """A worker process that ends when nothing is left to do; waiting for events is nothing."""

    async def begin() -> None:
        async with manager.client():
            for n in range(3):
                await manager.start(call(manager, "everything", n), id=f"w{n}")
            await manager.start(call(manager, "wait"), id="waiting")

    async def look() -> list[str]:
        async with manager.client():
            return [info.status.kind for info in await manager.list_workflows()]

    asyncio.run(begin())
    manager.run(until_idle=True)
    assert asyncio.run(look()) == ["success"] * 3 + ["in_progress"]


def test_a_file_that_is_no_database_is_named(path: Path) -> None:
    """Opening says what is wrong; the manager stays closed and may be tried again."""
    path.write_text("not a database, however long one looks at it" * 50, "utf-8")
    manager = make(path)

    async def main() -> None:
        for _ in range(2):
            with pytest.raises(StoreError, match="app.db"):
                async with manager:
                    pass

    asyncio.run(main())


@pytest.mark.parametrize(
    "options",
    [
        {"max_parallelism": -1},
        {"max_parallelism": True},
        {"drain_timeout": -1},
        {"durability": "perhaps"},
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any]) -> None:
    """A manager that makes no sense cannot be made."""
    with pytest.raises(ValueError, match=next(iter(options))):
        WorkflowManager(":memory:", **options)


def test_the_drain_waits_for_running_attempts(path: Path) -> None:
    """Leaving the block lets an attempt end, and its outcome is stored."""
    manager = make(path)
    began = threading.Event()

    @manager.action
    async def brief(ctx: ActionContext) -> int:
        began.set()
        while manager._engine is not None:  # until the block is being left
            await asyncio.sleep(0)
        return 7

    @manager.workflow
    async def working(step: Step) -> int:
        return await step.run_action(brief())

    async def main() -> Any:
        async with manager:
            workflow_id = await manager.start(working())
            await asyncio.to_thread(began.wait, LONG)
        async with manager.client():
            steps = (await manager.list_steps(workflow_id)).items
            return [(step.status, step.value) for step in steps]

    assert asyncio.run(main()) == [("success", 7)]


def test_a_drain_gives_overdue_attempts_up(path: Path) -> None:
    """An attempt that outlasts `drain_timeout` is cancelled; at most once: its step failed."""
    manager = make(path, drain_timeout=0)
    began = threading.Event()

    @manager.action
    async def hang(ctx: ActionContext) -> None:
        began.set()
        await asyncio.get_running_loop().create_future()

    @manager.workflow
    async def hanging(step: Step) -> str:
        try:
            await step.run_action(hang(), retry=False)
        except StepFailed as failure:
            return failure.error.type
        return "nothing"

    async def main() -> Any:
        async with manager:
            workflow_id = await manager.start(hanging())
            await asyncio.to_thread(began.wait, LONG)
        async with manager:
            return await manager.result(workflow_id, timeout=LONG)

    assert asyncio.run(main()) == "WorkerLost"


def test_events_are_typed_by_their_definition() -> None:
    """`define_event` gives a name and a type, which both sides share."""
    assert isinstance(number_event, Event)
    assert number_event.name == "number"

"""The manager's calls: starting, managing, reading. (Running, opening: test_manager_running.py.)"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.managers import LONG, call, define, make, number_event, run

from perdure import (
    Canceled,
    DefinitionError,
    Failed,
    InProgress,
    MutationContext,
    Outcome,
    Step,
    Succeeded,
    ValidationError,
    WorkflowCanceled,
    WorkflowFailed,
    WorkflowIdConflict,
    WorkflowManager,
    WorkflowNotFound,
    WorkflowNotRunning,
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
            await m.send_event(  # type: ignore[misc]
                number_event, workflow_id=workflow_id, value="1"
            )
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
                await m.list_workflows(**options)

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
        put: Any = m.registry.get("put")
        with pytest.raises(DefinitionError, match="an on_complete takes"):
            await m.start(call(m, "wait"), on_complete=put)

    run(test, manager)

"""Events, listings, transactions and opening: what is promised, line by line, by the public door.

Each test is one promise, as a user would try it, on a database of each kind. Waiting is done by
results and events, never by sleeping; a time-out here is one that only a bug reaches.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import UTC
from typing import Any

import psycopg
import pytest
from tests.surface.app import LONG, App, go, play, waits_for

import perdure
from perdure import (
    ActionContext,
    Canceled,
    EventAlreadySent,
    EventNotFound,
    MutationContext,
    PerdureError,
    Step,
    ValidationError,
    WorkflowFailed,
    WorkflowManager,
    WorkflowNotFound,
)

# --- events ---------------------------------------------------------------------------------------


def test_events_queue_in_the_order_sent(app: App) -> None:
    """Not in the order of anything else."""
    manager = app.manager

    @manager.workflow
    async def three(step: Step) -> list[int]:
        return [await step.await_event(go) for _ in range(3)]

    async def script(m: WorkflowManager) -> None:
        workflow_id = await m.start(three())
        for value in (3, 1, 2):
            await m.send_event(go, workflow_id=workflow_id, value=value)
        assert await m.result(workflow_id) == [3, 1, 2]

    play(app, script)


def test_a_created_event_is_sent_by_its_id_once(app: App) -> None:
    """A second time, or an unknown id, is an error."""

    async def script(m: WorkflowManager) -> None:
        workflow_id = await m.start(app.wait(1))
        event_id = await m.create_event(go, workflow_id=workflow_id)
        assert isinstance(event_id, str)
        assert await m.send_event(id=event_id, value=4) == event_id
        assert await m.result(workflow_id) == 5
        with pytest.raises(EventAlreadySent):
            await m.send_event(id=event_id, value=4)
        with pytest.raises(EventNotFound):
            await m.send_event(id="unknown", value=4)
        with pytest.raises(WorkflowNotFound):
            await m.create_event(go, workflow_id="nobody")

    play(app, script)


def test_an_event_is_awaited_by_its_id(app: App) -> None:
    """By its owner alone."""

    async def script(m: WorkflowManager) -> None:
        owner = await m.start(app.wait(), id="owner")
        event_id = await m.create_event(go, workflow_id=owner)
        thief = await m.start(app.by_id(event_id))
        assert str(await m.result(thief)).startswith("EventNotFound")
        unknown = await m.start(app.by_id("unknown"))
        assert str(await m.result(unknown)).startswith("EventNotFound")
        await m.send_event(id=event_id, value=1)  # it wakes its owner, not the thief
        assert await m.result(owner) == 1

    play(app, script)


def test_a_send_by_name_takes_the_oldest_created_event(app: App) -> None:
    """Then the next one; and then it makes one."""

    async def script(m: WorkflowManager) -> None:
        workflow_id = await m.start(app.chain(1))
        await m.result(workflow_id)  # nobody awaits here
        first = await m.create_event(go, workflow_id=workflow_id)
        second = await m.create_event(go, workflow_id=workflow_id)
        assert await m.send_event(go, workflow_id=workflow_id, value=1) == first
        assert await m.send_event(go, workflow_id=workflow_id, value=2) == second
        assert await m.send_event(go, workflow_id=workflow_id, value=3) not in (first, second)

    play(app, script)


def test_payloads_are_checked_where_they_are_sent(app: App) -> None:
    """And an error for a payload is raised at the await."""

    async def script(m: WorkflowManager) -> None:
        workflow_id = await m.start(app.wait())
        wrong: Any = "five"
        with pytest.raises(ValidationError):
            await m.send_event(go, workflow_id=workflow_id, value=wrong)
        with pytest.raises(WorkflowNotFound):
            await m.send_event(go, workflow_id="nobody", value=1)
        await m.send_event(go, workflow_id=workflow_id, error="no way")
        with pytest.raises(WorkflowFailed, match="no way"):
            await m.result(workflow_id)

    play(app, script)


# --- listings -------------------------------------------------------------------------------------


def test_workflows_are_listed_in_pages_by_name_and_status(app: App) -> None:
    """In order of creation, or the other way round."""

    async def script(m: WorkflowManager) -> None:
        ids = [await m.start(app.chain(n)) for n in range(5)]
        for each in ids:
            await m.result(each)
        waiting = await m.start(app.wait())
        page = await m.list_workflows(limit=4)
        assert [info.workflow_id for info in page.items] == ids[:4]
        assert not page.is_done
        rest = await m.list_workflows(limit=4, cursor=page.cursor)
        assert [info.workflow_id for info in rest.items] == [ids[4], waiting]
        assert rest.is_done
        backwards = await m.list_workflows(order="desc", limit=2)
        assert [info.workflow_id for info in backwards.items] == [waiting, ids[4]]
        assert [info.workflow_id for info in await m.list_workflows(name="wait")] == [waiting]
        assert len(await m.list_workflows(status="success")) == 5
        assert len(await m.list_workflows(name="chain", status="failed")) == 0
        info = (await m.list_workflows(limit=1)).items[0]
        assert info.arguments == {"n": 0}
        assert info.name == "chain"
        assert info.created_at.tzinfo is UTC
        assert info.ended_at is not None
        assert info.journal_bytes > 0

    play(app, script)


def test_steps_are_listed_with_what_they_did(app: App) -> None:
    """With times, attempts, arguments and values."""

    async def script(m: WorkflowManager) -> None:
        workflow_id = await m.start(app.chain(1))
        await m.result(workflow_id)
        page = await m.list_steps(workflow_id, limit=2)
        assert [step.name for step in page.items] == ["ask", "second"]
        first = page.items[0]
        assert (first.workflow_id, first.number, first.kind) == (workflow_id, 0, "action")
        assert (first.status, first.arguments, first.value) == ("success", {"n": 1}, 2)
        assert (first.attempts, first.error) == (1, None)
        assert first.started_at is not None
        assert first.ended_at is not None
        assert first.asked_at <= first.started_at <= first.ended_at
        rest = await m.list_steps(workflow_id, limit=2, cursor=page.cursor)
        assert [step.number for step in rest.items] == [2]
        assert rest.is_done
        assert [s.number for s in await m.list_steps(workflow_id, order="desc")] == [2, 1, 0]
        assert (await m.list_steps("nobody")).items == []

    play(app, script)


# --- functions from outside, on_complete, settings ------------------------------------------------


def test_functions_run_from_outside(app: App) -> None:
    """What one raises is raised, and what it wrote is undone."""

    async def script(m: WorkflowManager) -> None:
        assert await m.run_mutation(app.note("a")) == "a"
        with pytest.raises(LookupError, match="b"):
            await m.run_mutation(app.note_and_fail("b"))
        assert await m.run_query(app.notes()) == ["a"]

    play(app, script)


def test_on_complete_that_raises_leaves_the_outcome_and_is_kept(app: App) -> None:
    """Its writes are undone, its error is shown."""

    async def script(m: WorkflowManager) -> None:
        workflow_id = await m.start(app.chain(1), on_complete=app.ended_badly)
        assert await m.result(workflow_id) == [2, 4, 8]
        (info,) = await m.list_workflows()
        assert info.on_complete_error is not None
        assert info.on_complete_error.type == "LookupError"
        none = 'no such table: notes|relation "notes" does not exist'
        with pytest.raises((sqlite3.Error, psycopg.Error), match=none):
            await m.run_query(app.notes())

    play(app, script)


def test_a_context_without_on_complete_is_kept_and_shown(app: App) -> None:
    """As a plain value."""

    async def script(m: WorkflowManager) -> None:
        await m.start(app.chain(1), context={"who": "me"})
        (info,) = await m.list_workflows()
        assert info.context == {"who": "me"}

    play(app, script)


def test_settings_are_stored_and_shared(app: App) -> None:
    """0 pauses; another process finds what was set."""

    async def script(m: WorkflowManager) -> None:
        assert (await m.config()).max_parallelism == 100
        await m.update_config(max_parallelism=0)
        workflow_id = await m.start(app.chain(1))
        await waits_for(m, workflow_id, "ask")
        assert app.calls == []  # paused
        await m.update_config(max_parallelism=7)
        assert await m.result(workflow_id) == [2, 4, 8]
        with pytest.raises(ValueError, match="-1"):
            await m.update_config(max_parallelism=-1)

    play(app, script)
    other = App(app.address)
    assert other.manager.sync.config().max_parallelism == 7
    other.manager.sync.close()


# --- inside a transaction -------------------------------------------------------------------------


def test_verbs_in_a_mutation_happen_with_it_or_not_at_all(app: App) -> None:
    """All of them, in one transaction."""
    manager = app.manager

    @manager.mutation
    def do(ctx: MutationContext, is_good: bool) -> str:
        ctx.start(app.wait(), id=f"started {is_good}")
        ctx.cancel("victim")
        ctx.restart("done", from_step=0)
        assert ctx.cleanup("old") is True
        event_id = ctx.create_event(go, workflow_id="target")
        ctx.send_event(id=event_id, value=1)
        if not is_good:
            raise LookupError("take it all back")
        return event_id

    async def script(m: WorkflowManager) -> None:
        for name in ("done", "old"):
            await m.start(app.chain(1), id=name)
            await m.result(name)
        for name in ("victim", "target"):
            await m.start(app.wait(), id=name)
            await waits_for(m, name, "go")
        app.calls.clear()
        with pytest.raises(LookupError):
            await m.run_mutation(do(False))
        with pytest.raises(WorkflowNotFound):
            await m.status("started False")
        kinds = {info.workflow_id: info.status.kind for info in await m.list_workflows()}
        assert kinds == {
            "done": "success",
            "old": "success",
            "victim": "in_progress",
            "target": "in_progress",
        }
        assert app.calls == []
        await m.run_mutation(do(True))
        assert (await m.status("started True")).kind == "in_progress"
        assert await m.status("victim") == Canceled()
        assert await m.result("done") == [2, 4, 8]
        assert len(app.calls) == 3
        with pytest.raises(WorkflowNotFound):
            await m.status("old")
        assert await m.result("target") == 1

    play(app, script)


def test_over_a_transaction_of_the_users_own(app: App) -> None:
    """They commit and roll back with it."""

    async def script(m: WorkflowManager) -> None:
        await m.run_mutation(app.note("first"))
        with closing(app.connect()) as db:
            db.execute("insert into notes values ('mine')")
            assert m.over(db).start(app.chain(1), id="rolled back") == "rolled back"
            db.rollback()
            db.execute("insert into notes values ('mine')")
            m.over(db).start(app.chain(1), id="kept")
            db.commit()
        assert await m.result("kept") == [2, 4, 8]
        with pytest.raises(WorkflowNotFound):
            await m.status("rolled back")
        assert await m.run_query(app.notes()) == ["first", "mine"]

    play(app, script)


def test_an_action_has_the_verbs_as_coroutines(app: App) -> None:
    """And knows its step and attempt."""
    manager = app.manager

    @manager.action
    async def do(ctx: ActionContext) -> list[Any]:
        assert ctx.attempt == 1
        assert ctx.step_number == 0
        await ctx.run_mutation(app.note("from an action"))
        started = await ctx.start(app.wait(1), id="other")
        await ctx.send_event(go, workflow_id=started, value=1)
        return [ctx.workflow_id, await ctx.run_query(app.notes())]

    @manager.workflow
    async def use(step: Step) -> list[Any]:
        return await step.run_action(do())

    async def script(m: WorkflowManager) -> None:
        workflow_id = await m.start(use())
        assert await m.result(workflow_id) == [workflow_id, ["from an action"]]
        assert await m.result("other") == 2

    play(app, script)


def test_waiting_for_the_manager_inside_names_the_verb(app: App) -> None:
    """Inside a transaction it would wait for itself."""
    manager = app.manager

    @manager.mutation
    def wrong(ctx: MutationContext) -> None:
        manager.sync.start(app.wait())

    async def script(m: WorkflowManager) -> None:
        with pytest.raises(PerdureError, match=r"ctx\.start"):
            await m.run_mutation(wrong())

    play(app, script)


# --- open and not open ----------------------------------------------------------------------------


def test_a_client_starts_and_a_worker_works(app: App) -> None:
    """Each in its time, on one file."""

    async def client() -> str:
        async with app.manager.client():
            workflow_id = await app.manager.start(app.chain(1))
            assert (await app.manager.status(workflow_id)).kind == "in_progress"
            return workflow_id

    workflow_id = asyncio.run(client())
    app.manager.run(until_idle=True)
    with app.manager.sync as sync:
        assert sync.result(workflow_id, timeout=LONG) == [2, 4, 8]


def test_a_coroutine_on_a_closed_manager_names_the_remedy(app: App) -> None:
    """How to open it."""
    with pytest.raises(PerdureError, match="async with"):
        asyncio.run(app.manager.start(app.wait()))


def test_sync_opens_as_a_client_on_first_use(app: App) -> None:
    """Until it is closed."""
    sync = app.manager.sync
    workflow_id = sync.start(app.chain(1))
    assert sync.status(workflow_id).kind == "in_progress"  # nobody works here
    sync.close()
    with app.manager.sync:
        assert app.manager.sync.result(workflow_id, timeout=LONG) == [2, 4, 8]
        assert [s.kind for s in app.manager.sync.watch(workflow_id)] == ["success"]


def test_every_error_is_a_perdure_error() -> None:
    """So one `except` catches them all."""
    names = [
        "DefinitionError",
        "ValidationError",
        "LimitExceeded",
        "WorkflowNotFound",
        "WorkflowNotRunning",
        "WorkflowRunning",
        "WorkflowIdConflict",
        "WorkflowFailed",
        "WorkflowCanceled",
        "StepFailed",
        "StepCanceled",
        "StepNotFound",
        "NonRetryableError",
        "EventNotFound",
        "EventAlreadySent",
        "DeterminismError",
        "StoreError",
        "StoreBusy",
        "StoreVersionError",
        "InternalError",
    ]
    for name in names:
        error = getattr(perdure, name)
        assert issubclass(error, PerdureError), name
    assert issubclass(perdure.ValidationError, ValueError)
    assert issubclass(perdure.DeterminismWarning, Warning)

"""What the manager promises, line by line, through the public door only.

Each test is one promise, as a user would try it, on a database of each kind. Waiting is done by
results and events, never by sleeping; a time-out here is one that only a bug reaches.
"""

from __future__ import annotations

import asyncio
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.surface.app import LONG, App, go, play, waits_for

from perdure import (
    Canceled,
    Failed,
    InProgress,
    StepNotFound,
    Succeeded,
    WorkflowCanceled,
    WorkflowFailed,
    WorkflowIdConflict,
    WorkflowManager,
    WorkflowNotFound,
    WorkflowNotRunning,
    WorkflowRunning,
)

# --- start ----------------------------------------------------------------------------------------


def test_start_returns_a_text_and_is_durable(app: App) -> None:
    """The id is in the database when the call returns."""

    async def script(m: WorkflowManager) -> str:
        return await m.start(app.wait())

    workflow_id = play(app, script)
    assert isinstance(workflow_id, str)
    with closing(app.connect()) as db:
        assert db.execute("select id from perdure_workflows").fetchall() == [(workflow_id,)]


def test_an_id_makes_start_idempotent(app: App) -> None:
    """The same call starts nothing new; another call is refused."""

    async def script(m: WorkflowManager) -> None:
        assert await m.start(app.wait(1), id="one") == "one"
        assert await m.start(app.wait(1), id="one") == "one"
        assert len(await m.list_workflows()) == 1
        with pytest.raises(WorkflowIdConflict):
            await m.start(app.wait(2), id="one")
        with pytest.raises(WorkflowIdConflict):
            await m.start(app.chain(1), id="one")
        await m.send_event(go, workflow_id="one", value=1)
        assert await m.result("one") == 2
        assert await m.start(app.wait(1), id="one") == "one"  # also when it has ended
        assert (await m.status("one")).kind == "success"

    play(app, script)


def test_a_delayed_start_waits(app: App) -> None:
    """By a delay or a time, not by both."""

    async def script(m: WorkflowManager) -> None:
        later = await m.start(app.chain(1), run_after=timedelta(days=1))
        at = await m.start(app.chain(1), run_at=datetime(2100, 1, 1, tzinfo=UTC))
        for each in (later, at):
            assert await m.status(each) == InProgress()
        soon = await m.start(app.chain(1), run_after=0.01)
        assert await m.result(soon) == [2, 4, 8]
        with pytest.raises(ValueError, match="not both"):
            await m.start(app.chain(1), run_after=1, run_at=datetime(2100, 1, 1, tzinfo=UTC))

    play(app, script)


# --- status, result, watch ------------------------------------------------------------------------


def test_the_four_kinds_of_status(app: App) -> None:
    """In progress with its open steps, success, failed with the error, canceled."""

    async def script(m: WorkflowManager) -> None:
        running = await m.start(app.wait())
        await waits_for(m, running, "go")
        status = await m.status(running)
        assert isinstance(status, InProgress)
        assert (status.kind, status.blocked) == ("in_progress", None)
        assert [(step.name, step.kind) for step in status.running] == [("go", "event")]
        done = await m.start(app.chain(1))
        await m.result(done)
        assert await m.status(done) == Succeeded([2, 4, 8])
        failed = await m.start(app.fragile())
        with pytest.raises(WorkflowFailed, match="broken"):
            await m.result(failed)
        status = await m.status(failed)
        assert isinstance(status, Failed)
        assert status.error.type == "StepFailed"
        assert "broken" in status.error.message
        await m.cancel(running)
        assert await m.status(running) == Canceled()
        with pytest.raises(WorkflowCanceled):
            await m.result(running)

    play(app, script)


def test_result_has_a_timeout(app: App) -> None:
    """It ends the wait, not the workflow."""

    async def script(m: WorkflowManager) -> None:
        workflow_id = await m.start(app.wait())
        with pytest.raises(TimeoutError):
            await m.result(workflow_id, timeout=0.001)
        assert (await m.status(workflow_id)).kind == "in_progress"

    play(app, script)


def test_watch_gives_the_present_status_first_and_ends_with_the_last(app: App) -> None:
    """Also when there is nothing more to come."""

    async def script(m: WorkflowManager) -> None:
        workflow_id = await m.start(app.wait(1))
        await waits_for(m, workflow_id, "go")
        seen: list[Any] = []
        async for status in m.watch(workflow_id):
            seen.append(status)
            if len(seen) == 1:
                await m.send_event(go, workflow_id=workflow_id, value=1)
        assert seen[0].kind == "in_progress"
        assert seen[-1] == Succeeded(2)
        assert [status.kind for status in seen].count("success") == 1
        assert [status async for status in m.watch(workflow_id)] == [Succeeded(2)]
        with pytest.raises(WorkflowNotFound):
            async for _ in m.watch("nobody"):
                pass

    play(app, script)


def test_a_watch_in_a_client_hears_of_another_process(app: App) -> None:
    """The change is committed by a worker elsewhere."""
    other = App(app.address)

    async def watch() -> list[str]:
        async with other.manager.client(), asyncio.timeout(LONG):
            seen: list[str] = []
            async for status in other.manager.watch("one"):
                if not seen:
                    await app.manager.send_event(go, workflow_id="one", value=1)
                seen.append(status.kind)
            return seen

    async def script(m: WorkflowManager) -> list[str]:
        await m.start(app.wait(), id="one")
        return await watch()

    kinds = play(app, script)
    assert kinds[0] == "in_progress"
    assert kinds[-1] == "success"


# --- cancel ---------------------------------------------------------------------------------------


def test_cancel_takes_the_whole_tree(app: App) -> None:
    """With every open step, and `on_complete` told; only what runs can be canceled."""

    async def script(m: WorkflowManager) -> None:
        await m.start(app.parent("kid"), id="top", on_complete=app.ended, context="c")
        await waits_for(m, "kid", "go")
        await m.cancel("top")
        assert await m.status("top") == Canceled()
        assert await m.status("kid") == Canceled()
        steps = [step for name in ("top", "kid") for step in await m.list_steps(name)]
        assert {step.status for step in steps} == {"canceled"}
        assert await m.run_query(app.notes()) == ["top canceled c"]
        with pytest.raises(WorkflowNotRunning):
            await m.cancel("top")
        with pytest.raises(WorkflowNotFound):
            await m.cancel("nobody")

    play(app, script)


# --- restart --------------------------------------------------------------------------------------


def test_restart_keeps_outcomes_failures_too(app: App) -> None:
    """Nothing is run again: that is for mended code."""

    async def script(m: WorkflowManager) -> None:
        workflow_id = await m.start(app.fragile())
        with pytest.raises(WorkflowFailed):
            await m.result(workflow_id)
        app.broken = False
        await m.restart(workflow_id)
        with pytest.raises(WorkflowFailed, match="broken"):  # the failure is recorded
            await m.result(workflow_id)
        assert [call[0] for call in app.calls] == [1, "mended?"]

    play(app, script)


@pytest.mark.parametrize("which", ["number", "name", "definition"])
def test_restart_from_a_step_runs_it_and_all_after_it_anew(app: App, which: str) -> None:
    """What came before it stays."""

    async def script(m: WorkflowManager) -> None:
        workflow_id = await m.start(app.chain(1))
        assert await m.result(workflow_id) == [2, 4, 8]
        steps: dict[str, Any] = {"number": 1, "name": "second", "definition": app.ask}
        app.calls.clear()
        await m.restart(workflow_id, from_step=steps[which])
        assert await m.result(workflow_id) == [2, 4, 8]
        expected = {"number": [2, 4], "name": [2, 4], "definition": [4]}
        assert [call[0] for call in app.calls] == expected[which]  # the last of that name
        assert [step.number for step in await m.list_steps(workflow_id)] == [0, 1, 2]

    play(app, script)


def test_a_restarted_step_may_succeed_this_time(app: App) -> None:
    """And `on_complete` is told of each end."""

    async def script(m: WorkflowManager) -> None:
        workflow_id = await m.start(app.fragile(), on_complete=app.ended, context="c")
        with pytest.raises(WorkflowFailed):
            await m.result(workflow_id)
        app.broken = False
        await m.restart(workflow_id, from_step="break_if_broken")
        assert await m.result(workflow_id) == "mended"
        ids = f"{workflow_id} failed c", f"{workflow_id} success c"
        assert await m.run_query(app.notes()) == list(ids)
        (info,) = await m.list_workflows()
        assert info.status == Succeeded("mended")

    play(app, script)


def test_a_canceled_workflow_goes_on_where_it_was(app: App) -> None:
    """It waits for its event again."""

    async def script(m: WorkflowManager) -> None:
        workflow_id = await m.start(app.wait(1))
        await waits_for(m, workflow_id, "go")
        await m.cancel(workflow_id)
        await m.restart(workflow_id)
        await waits_for(m, workflow_id, "go")
        await m.send_event(go, workflow_id=workflow_id, value=1)
        assert await m.result(workflow_id) == 2

    play(app, script)


def test_an_event_to_an_ended_workflow_is_kept_for_its_restart(app: App) -> None:
    """The new run consumes it."""

    async def script(m: WorkflowManager) -> None:
        workflow_id = await m.start(app.wait(1))
        await waits_for(m, workflow_id, "go")
        await m.cancel(workflow_id)
        await m.send_event(go, workflow_id=workflow_id, value=5)
        await m.restart(workflow_id)
        assert await m.result(workflow_id) == 6

    play(app, script)


def test_what_cannot_be_restarted(app: App) -> None:
    """Each with an error of its own, and nothing is changed."""

    async def script(m: WorkflowManager) -> None:
        running = await m.start(app.wait())
        with pytest.raises(WorkflowRunning):
            await m.restart(running)
        with pytest.raises(WorkflowNotFound):
            await m.restart("nobody")
        done = await m.start(app.chain(1))
        await m.result(done)
        for missing in (3, "nothing", app.note):
            with pytest.raises(StepNotFound):
                await m.restart(done, from_step=missing)
        with pytest.raises(ValueError, match="-1"):
            await m.restart(done, from_step=-1)
        wrong: Any = 1.5
        with pytest.raises(TypeError):
            await m.restart(done, from_step=wrong)
        assert await m.status(done) == Succeeded([2, 4, 8])  # none of it has changed anything

    play(app, script)


def test_a_restarted_parent_has_its_child_again(app: App) -> None:
    """Under the id that its code gives, which is free again."""

    async def script(m: WorkflowManager) -> None:
        await m.start(app.parent("kid"), id="top")
        await waits_for(m, "kid", "go")
        await m.cancel("top")
        await m.restart("top", from_step=0)
        await waits_for(m, "kid", "go")
        await m.send_event(go, workflow_id="kid", value=1)
        assert await m.result("top") == 20

    play(app, script)


# --- cleanup --------------------------------------------------------------------------------------


def test_cleanup_deletes_what_has_ended(app: App) -> None:
    """With children, steps, events; what runs stays."""

    async def script(m: WorkflowManager) -> None:
        await m.start(app.parent("kid"), id="top")
        assert await m.cleanup("top") is False  # it runs
        assert (await m.status("top")).kind == "in_progress"
        await waits_for(m, "kid", "go")
        await m.send_event(go, workflow_id="kid", value=1)
        await m.send_event("unheard", workflow_id="kid", value=1)
        assert await m.result("top") == 20
        assert await m.cleanup("top") is True
        assert await m.cleanup("top") is False
        for name in ("top", "kid"):
            with pytest.raises(WorkflowNotFound):
                await m.status(name)
            assert (await m.list_steps(name)).items == []
        assert (await m.list_workflows()).items == []
        assert await m.cleanup("nobody") is False

    play(app, script)
    with closing(app.connect()) as db:
        for table in ("workflows", "steps", "ticks", "events", "inbox"):
            assert db.execute(f"select count(*) from perdure_{table}").fetchone() == (0,), table


def test_forced_cleanup_cancels_first(app: App) -> None:
    """So `on_complete` is told."""

    async def script(m: WorkflowManager) -> None:
        await m.start(app.parent("kid"), id="top", on_complete=app.ended, context="c")
        await waits_for(m, "kid", "go")
        assert await m.cleanup("top", force=True) is True
        assert (await m.list_workflows()).items == []
        assert await m.run_query(app.notes()) == ["top canceled c"]

    play(app, script)


def test_a_child_deleted_under_its_parent_fails_the_step(app: App) -> None:
    """The parent does not wait for ever."""

    async def script(m: WorkflowManager) -> None:
        await m.start(app.parent("kid"), id="top")
        await waits_for(m, "kid", "go")
        assert await m.cleanup("kid", force=True) is True
        with pytest.raises(WorkflowFailed):
            await m.result("top")

    play(app, script)


def test_an_id_is_free_again_after_cleanup(app: App) -> None:
    """For another call, too."""

    async def script(m: WorkflowManager) -> None:
        await m.start(app.chain(1), id="one")
        await m.result("one")
        await m.cleanup("one")
        await m.start(app.chain(2), id="one")
        assert await m.result("one") == [4, 8, 16]

    play(app, script)

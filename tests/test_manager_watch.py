"""`watch`: each change of a workflow's status, wherever it is made, up to the last one."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.managers import LONG, call, define, make, number_event, run

from perdure import (
    Canceled,
    InProgress,
    NotOpen,
    PerdureError,
    Status,
    Step,
    Succeeded,
    WorkflowManager,
    WorkflowNotFound,
)


def manager_of(store: str) -> WorkflowManager:
    made = make(store)
    define(made)
    return made


async def until_running(changes: AsyncIterator[Status], count: int) -> InProgress:
    """The first status with so many steps under way."""
    async for status in changes:
        assert isinstance(status, InProgress)
        if len(status.running) == count:
            return status
    raise AssertionError("it has ended")


def test_each_change_up_to_the_last(address: str) -> None:
    """The present one first; a change comes with the commit, without asking; then the end."""
    manager = manager_of(address)

    async def test(m: WorkflowManager) -> list[Any]:
        workflow_id = await m.start(call(m, "add"))
        changes = m.watch(workflow_id)
        first = await until_running(changes, 1)
        await m.send_event(number_event, workflow_id=workflow_id, value=1)
        second = await anext(changes)
        while isinstance(second, InProgress) and [s.number for s in second.running] != [1]:
            second = await anext(changes)
        await m.send_event(number_event, workflow_id=workflow_id, value=2)
        return [first.running[0].number, *[status async for status in changes]]

    seen = run(test, manager)
    assert seen[0] == 0
    assert seen[-1] == Succeeded(3)
    assert all(isinstance(status, InProgress) for status in seen[1:-1])


@pytest.mark.parametrize("store", ["file", ":memory:"])
def test_who_is_slow_gets_the_newest(address: str, store: str) -> None:
    """What was in between is left out, the end never is. Several may watch one workflow."""
    manager = manager_of(address if store == "file" else store)

    async def test(m: WorkflowManager) -> list[Any]:
        workflow_id = await m.start(call(m, "add"))
        watches = [m.watch(workflow_id) for _ in range(3)]
        for changes in watches:
            assert isinstance(await anext(changes), InProgress)
        for value in (1, 2):
            await m.send_event(number_event, workflow_id=workflow_id, value=value)
        await m.result(workflow_id, timeout=LONG)
        return [[status async for status in changes] for changes in watches]

    assert run(test, manager) == [[Succeeded(3)]] * 3


def test_changes_by_another_process(address: str) -> None:
    """A client watches what a worker elsewhere does, and a worker what a client does."""
    worker, client = manager_of(address), manager_of(address)

    async def main() -> tuple[Any, Any]:
        async with worker, client.client():
            workflow_id = await client.start(call(client, "add"))
            there, here = client.watch(workflow_id), worker.watch(workflow_id)
            for changes in (there, here):
                await until_running(changes, 1)
            await client.cancel(workflow_id)
            async with asyncio.timeout(LONG):
                return await anext(there), [status async for status in here][-1]

    assert asyncio.run(main()) == (Canceled(), Canceled())


def test_what_has_ended_and_what_never_was(address: str) -> None:
    """One status and the end; or the error, with the first."""
    manager = manager_of(address)

    async def test(m: WorkflowManager) -> list[Any]:
        workflow_id = await m.start(call(m, "add"))
        await m.cancel(workflow_id)
        with pytest.raises(WorkflowNotFound):
            await anext(m.watch("nobody"))
        with pytest.raises(TypeError, match="workflow_id"):
            m.watch(7)  # type: ignore[arg-type]
        return [status async for status in m.watch(workflow_id)]

    assert run(test, manager) == [Canceled()]


def test_a_watch_that_is_left_leaves_nothing(address: str) -> None:
    """Closed, or cancelled while it waits."""
    manager = manager_of(address)

    async def test(m: WorkflowManager) -> None:
        workflow_id = await m.start(call(m, "wait"))
        async with contextlib.aclosing(m.watch(workflow_id)) as changes:
            await until_running(changes, 1)
        waiting = m.watch(workflow_id)
        await until_running(waiting, 1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await anext(waiting)
        engine = m._engine
        assert engine is not None
        assert not engine.watchers

    run(test, manager)


def test_a_manager_that_is_closed_tells_who_watches(address: str) -> None:
    """They would wait for ever."""
    manager = manager_of(address)

    async def main() -> None:
        async with manager:
            changes = manager.watch(await manager.start(call(manager, "wait")))
            await until_running(changes, 1)
            waiting = asyncio.ensure_future(anext(changes))
            await asyncio.sleep(0)
        with pytest.raises(NotOpen, match="closed"):
            await waiting
        with pytest.raises(NotOpen):
            manager.watch("w")

    asyncio.run(main())


def test_code_that_does_not_fit_is_a_change(address: str) -> None:
    """It is blocked, by a worker that has other code for the same name."""
    manager, other = make(address), make(address)

    @manager.workflow(name="flow")
    async def before(step: Step) -> None:
        await step.await_event("go")

    @other.workflow(name="flow")
    async def after(step: Step) -> None:
        await step.sleep(60)

    async def main() -> str:
        async with manager:
            workflow_id = await manager.start(before())
            await until_running(manager.watch(workflow_id), 1)
        async with other:
            await other.send_event("go", workflow_id=workflow_id)
            async for status in other.watch(workflow_id):
                assert isinstance(status, InProgress)
                if status.blocked is not None:
                    return status.blocked.type
        raise AssertionError("it has ended")

    assert asyncio.run(main()) == "DeterminismError"


def test_a_plain_generator_for_code_without_a_loop(address: str) -> None:
    """`sync.watch` gives the same; left early, it leaves nothing."""
    manager = manager_of(address)
    with manager.sync as sync:
        workflow_id = sync.start(call(manager, "add"))
        left = sync.watch(workflow_id)
        assert isinstance(next(left), InProgress)
        left.close()
        engine = manager._engine
        assert engine is not None
        assert not engine.watchers
        for value in (1, 2):
            sync.send_event(number_event, workflow_id=workflow_id, value=value)
        assert list(sync.watch(workflow_id))[-1] == Succeeded(3)
        with pytest.raises(WorkflowNotFound):
            next(sync.watch("nobody"))


def test_an_action_in_a_thread_has_blocking_verbs(address: str) -> None:
    """`ctx.sync`: a plain `def` cannot await."""
    manager = make(address)

    @manager.action
    def approve(ctx: Any, event_id: str) -> str:
        ctx.sync.send_event(id=event_id, value="yes")
        return str(ctx.sync.status(ctx.workflow_id).kind)

    @manager.mutation
    def ask(ctx: Any, workflow_id: str) -> str:
        event_id: str = ctx.create_event("answer", workflow_id=workflow_id)
        return event_id

    @manager.workflow
    async def approved(step: Step) -> list[Any]:
        event_id = await step.run_mutation(ask(step.workflow_id))
        answer = step.await_event(id=event_id)
        return [await step.run_action(approve(event_id)), await answer]

    async def test(m: WorkflowManager) -> Any:
        return await m.result(await m.start(approved()), timeout=LONG)

    assert run(test, manager) == ["in_progress", "yes"]
    manager.sync.close()


async def watched(changes: AsyncIterator[Status]) -> list[Status]:
    async with asyncio.timeout(LONG):
        return [status async for status in changes]


@pytest.mark.parametrize("store", ["file", ":memory:"])
def test_a_workflow_that_is_deleted_while_it_runs_ends_canceled(address: str, store: str) -> None:
    """`cleanup(force=True)` cancels it first; that is the last status, though its row is gone."""
    manager = manager_of(address if store == "file" else store)

    async def test(m: WorkflowManager) -> list[Any]:
        workflow_id = await m.start(call(m, "wait"))
        changes = [m.watch(workflow_id) for _ in range(2)]
        for each in changes:
            await until_running(each, 1)
        waiting = asyncio.ensure_future(watched(changes[0]))
        await asyncio.sleep(0)  # one waits for news, one only asks when all is over
        await m.cleanup(workflow_id, force=True)
        return [await waiting, await watched(changes[1])]

    assert run(test, manager) == [[Canceled()], [Canceled()]]


def test_a_workflow_that_ends_and_is_deleted_keeps_its_last_status(address: str) -> None:
    """Nobody has asked in between: what it ended with is told all the same."""
    manager = manager_of(address)

    async def test(m: WorkflowManager) -> list[Any]:
        workflow_id = await m.start(call(m, "add"))
        changes = m.watch(workflow_id)
        await until_running(changes, 1)
        for value in (1, 2):
            await m.send_event(number_event, workflow_id=workflow_id, value=value)
        await m.result(workflow_id, timeout=LONG)
        assert await m.cleanup(workflow_id)
        return await watched(changes)

    assert run(test, manager) == [Succeeded(3)]


def test_what_another_process_has_deleted_is_told(address: str) -> None:
    """How it ended is not known here: to say anything of it could be a lie. Nobody hangs."""
    manager, other = manager_of(address), manager_of(address)

    async def main() -> None:
        async with manager, other.client():
            workflow_id = await manager.start(call(manager, "wait"))
            changes = other.watch(workflow_id)
            await until_running(changes, 1)
            result = asyncio.ensure_future(other.result(workflow_id))
            await asyncio.sleep(0)
            await manager.cleanup(workflow_id, force=True)
            for waiting in (watched(changes), result):
                with pytest.raises(WorkflowNotFound, match="was deleted before"):
                    async with asyncio.timeout(LONG):
                        await waiting
            assert other._engine is not None
            assert not other._engine.watchers
            assert not other._engine.waiters.ids()

    asyncio.run(main())


def test_a_loop_that_is_left_early_leaves_nothing(address: str) -> None:
    """`break` out of `async for`: Python closes the generator that nobody holds."""
    manager = manager_of(address)

    async def test(m: WorkflowManager) -> None:
        workflow_id = await m.start(call(m, "wait"))
        async for _ in m.watch(workflow_id):
            break
        for _ in range(5):
            await asyncio.sleep(0)  # asyncio closes it in a task of its own
        assert m._engine is not None
        assert not m._engine.watchers
        assert not m._engine.waiters.ids()

    run(test, manager)


def test_a_plain_generator_of_a_manager_that_is_closed(address: str) -> None:
    """It says so, at the next change that is asked for; no thread is begun for it."""
    manager = manager_of(address)
    with manager.sync as sync:
        changes = sync.watch(sync.start(call(manager, "wait")))
        assert isinstance(next(changes), InProgress)
        unused = sync.watch(sync.start(call(manager, "wait")))
    for each in (changes, unused):
        with pytest.raises(NotOpen, match="closed"):
            next(each)
    assert sync._thread is None


def test_a_plain_generator_that_waits_while_the_manager_is_closed(address: str) -> None:
    """In another thread."""
    manager = manager_of(address)
    found: list[BaseException] = []
    sync = manager.sync
    sync.__enter__()
    changes = sync.watch(sync.start(call(manager, "wait")))
    assert isinstance(next(changes), InProgress)

    def wait() -> None:
        try:
            for _ in changes:
                pass
        except PerdureError as error:
            found.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    sync.close()
    thread.join(LONG)
    assert not thread.is_alive()
    assert [type(error) for error in found] == [NotOpen]

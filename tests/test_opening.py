"""Opening and closing a manager: who may, what runs then, and what draining does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.managers import LONG, call, define, make, number_event, run

from perdure import (
    ActionContext,
    InProgress,
    NotOpen,
    PerdureError,
    Step,
    StepFailed,
    StoreError,
    StoreNotFound,
    StoreReadOnly,
    WorkflowManager,
)
from perdure.runtime import loops


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
            with pytest.raises(StoreError, match=r"app\.db"):
                await manager.__aenter__()

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
        while not (manager._engine and manager._engine._is_stopping):  # noqa: ASYNC110  until the block is being left
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


def test_an_action_may_use_the_manager_during_the_drain(path: Path) -> None:
    """Leaving the block takes nothing from an attempt that is let end."""
    manager = make(path)
    define(manager)
    began = threading.Event()

    @manager.action
    async def late(ctx: ActionContext) -> int:
        began.set()
        while not (manager._engine and manager._engine._is_stopping):  # noqa: ASYNC110
            await asyncio.sleep(0)
        await ctx.start(call(manager, "wait"), id="other")
        await ctx.run_mutation(call(manager, "put", "x"))
        return int(await ctx.run_query(call(manager, "count")))

    @manager.workflow
    async def working(step: Step) -> int:
        return await step.run_action(late())

    async def main() -> Any:
        async with manager:
            workflow_id = await manager.start(working())
            await asyncio.to_thread(began.wait, LONG)
        async with manager.client():
            (step,) = (await manager.list_steps(workflow_id)).items
            return step.status, step.value, (await manager.status("other")).kind

    assert asyncio.run(main()) == ("success", 1, "in_progress")


def test_run_ends_though_an_action_ignores_its_cancellation(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is told to stop stops, whatever its actions do."""
    monkeypatch.setattr(loops, "GRACE_SECONDS", 0.01)
    manager = make(path, drain_timeout=0)

    @manager.action
    async def stubborn(ctx: ActionContext) -> None:
        engine = manager._engine
        assert engine is not None
        engine.stop()  # type: ignore[attr-defined]  # as SIGTERM does
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.get_running_loop().create_future()

    @manager.workflow
    async def working(step: Step) -> None:
        await step.run_action(stubborn())

    async def begin() -> None:
        async with manager.client():
            await manager.start(working(), id="wf")

    async def look() -> Any:
        async with manager.client():
            return (await manager.list_steps("wf")).items[0].error

    asyncio.run(begin())
    manager.run()
    assert asyncio.run(look()).type == "WorkerLost"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_can_be_stopped_while_its_server_is_away(number: signal.Signals) -> None:
    """It ends at once, and leaves the signals as they were."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    manager = WorkflowManager("postgresql://nobody@/none?host=/there-is-no-such-folder")
    told: list[str] = []

    class Stopping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())
            signal.raise_signal(number)

    logger, stopping = logging.getLogger("perdure.store"), Stopping()
    logger.addHandler(stopping)
    try:
        manager.run()
    finally:
        logger.removeHandler(stopping)
    assert len(told) == 1
    assert "a worker cannot start yet" in told[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert manager._opening is None


def test_run_inside_a_loop_is_refused(manager: WorkflowManager) -> None:
    """It would block the loop; the error names what to use, and the manager can be opened."""

    async def main() -> None:
        with pytest.raises(PerdureError, match="async with manager"):
            manager.run()
        async with manager:
            assert await manager.result(
                await manager.start(call(manager, "everything", 1)), timeout=LONG
            ) == [2, 4, 1]

    asyncio.run(main())


def engines() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "perdure-engine"]


def test_of_two_openings_at_once_one_is_refused(manager: WorkflowManager) -> None:
    """Nothing of the refused one stays."""

    async def main() -> None:
        before = len(engines())
        opened = await asyncio.gather(
            manager.__aenter__(), manager.__aenter__(), return_exceptions=True
        )
        assert {type(each) for each in opened} == {WorkflowManager, PerdureError}
        assert len(engines()) == before + 1
        await manager.__aexit__(None, None, None)
        assert len(engines()) == before

    asyncio.run(main())


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_cancelled_opening_leaves_nothing_open(manager: WorkflowManager, turns: int) -> None:
    """Whenever it is cancelled; the manager can be opened again at once."""

    async def main() -> None:
        before = set(engines())
        opening = asyncio.create_task(manager.__aenter__())
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        async with manager:
            await manager.start(call(manager, "wait"))
        while set(engines()) - before:  # noqa: ASYNC110  What was opened all the same ends soon.
            await asyncio.sleep(0)

    asyncio.run(main())


class Tries(logging.Handler):
    """Cancels the task `opening` when its store could not be opened."""

    opening: asyncio.Task[Any]

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(record.getMessage())
        self.opening.get_loop().call_soon_threadsafe(self.opening.cancel)


def test_an_opening_can_be_cancelled_while_its_server_is_away() -> None:
    """Nobody tries further, and the manager can be opened again at once."""
    manager = WorkflowManager("postgresql://nobody@/none?host=/there-is-no-such-folder")
    logger, tries = logging.getLogger("perdure.store"), Tries()

    async def opening() -> None:
        async with manager:
            raise AssertionError("there is none")

    async def main() -> None:
        for _ in range(2):
            tries.opening = asyncio.create_task(opening())
            with pytest.raises(asyncio.CancelledError):
                await tries.opening
            assert manager._opening is None
        await asyncio.get_running_loop().shutdown_default_executor()

    logger.addHandler(tries)
    try:
        asyncio.run(main())
    finally:
        logger.removeHandler(tries)
    assert len(tries.told) == 2


def test_an_opening_can_be_cancelled_while_its_file_is_locked(path: Path) -> None:
    """By somebody else, who goes on: then it is opened as ever."""
    manager = WorkflowManager(path)

    async def main() -> None:
        other = sqlite3.connect(path)
        other.execute("BEGIN EXCLUSIVE")
        for _ in range(2):
            opening = asyncio.create_task(manager.__aenter__())
            while manager._opening is None or not manager._opening.is_under_way:  # noqa: ASYNC110
                await asyncio.sleep(0)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
        other.close()
        async with manager:
            assert (await manager.list_workflows()).items == []

    asyncio.run(main())


def test_run_until_idle_does_not_wait_for_the_blocked(path: Path) -> None:
    """What is blocked waits for other code, which no process gets while it runs."""
    good, bad = make(path), make(path)
    define(good)

    @bad.workflow(name="wait")
    async def other(step: Step) -> None:
        await step.sleep(1)

    async def begin() -> None:
        async with good:
            await good.start(call(good, "wait"), id="wf")
            while not (await good.list_steps("wf")).items:  # noqa: ASYNC110
                await asyncio.sleep(0)

    async def tell() -> None:
        async with bad.client():
            await bad.send_event("never", workflow_id="wf")

    async def look() -> Any:
        async with bad.client():
            return await bad.status("wf")

    asyncio.run(begin())
    asyncio.run(tell())
    bad.run(until_idle=True)
    status = asyncio.run(look())
    assert isinstance(status, InProgress)
    assert status.blocked is not None
    good.run(until_idle=True)  # its code is tried at once, before it is found idle
    assert asyncio.run(look()).kind == "success"


def test_a_path_may_be_a_path(path: Path) -> None:
    """As a text of the same file."""
    assert WorkflowManager(path).store_url == str(path)


# --- as a client that makes nothing


@pytest.mark.parametrize("access", ["write", "read"])
def test_a_client_need_not_make_a_database(
    access: Any, path: Path, manager: WorkflowManager
) -> None:
    """One that wants the database to be there leaves a mistyped path alone."""

    async def main() -> None:
        with pytest.raises(StoreNotFound):
            async with manager.client(access=access):
                raise AssertionError("opened")

    asyncio.run(main())
    assert not path.exists()


def test_a_client_that_only_reads_refuses_to_write(manager: WorkflowManager) -> None:
    """It answers about workflows beside a worker; what would write is refused at once."""

    async def begin(m: WorkflowManager) -> None:
        await m.start(call(m, "add"), id="wf")

    async def read() -> None:
        async with manager.client(access="read"):
            assert isinstance(await manager.status("wf"), InProgress)
            with pytest.raises(StoreReadOnly, match="access='write'"):
                await manager.cancel("wf")

    run(begin, manager)
    asyncio.run(read())


def test_an_unknown_access_is_refused(manager: WorkflowManager) -> None:
    """A wrong word is told with the right ones."""

    async def main() -> None:
        with pytest.raises(ValueError, match="'create', 'write' or 'read'"):
            async with manager.client(access="readonly"):  # type: ignore[arg-type]
                raise AssertionError("opened")

    asyncio.run(main())


def test_no_password_is_shown() -> None:
    """What names a manager in errors and logs has none in it."""
    manager = WorkflowManager("postgresql://me:secret@db/app")
    assert repr(manager) == "<WorkflowManager of 'postgresql://me:***@db/app'>"

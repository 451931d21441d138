"""The blocking calls, for code without a loop: beside a worker, as a client, from many threads."""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from perdure import (
    ActionContext,
    Canceled,
    InProgress,
    MutationContext,
    NotOpen,
    PerdureError,
    QueryContext,
    Step,
    Succeeded,
    WorkflowCanceled,
    WorkflowFailed,
    WorkflowManager,
)
from perdure.opening import Opening
from perdure.runtime.engine import LoopEngine

LONG = 30
NUMBERS = itertools.count()


@pytest.fixture
def manager(address: str) -> WorkflowManager:
    made = WorkflowManager(address, durability="process")

    @made.mutation
    def put(ctx: MutationContext, text: str) -> str:
        return text

    @made.query
    def get(ctx: QueryContext) -> int:
        return 1

    @made.action
    async def double(ctx: ActionContext, n: int) -> int:
        return 2 * n

    @made.workflow
    async def doubling(step: Step, n: int) -> int:
        return await step.run_action(double(n))

    @made.workflow
    async def waiting(step: Step) -> Any:
        return await step.await_event("go")

    return made


def call(manager: WorkflowManager, name: str, *args: Any) -> Any:
    definition = manager.registry.get(name)
    assert definition is not None
    return definition(*args)


def threads_of_ours() -> set[str]:
    return {thread.name for thread in threading.enumerate() if "perdure-sync" in thread.name}


def test_every_call(manager: WorkflowManager) -> None:
    """Each does what its coroutine does, with a worker in this process."""
    with manager.sync as sync:
        assert sync is manager.sync
        workflow_id = sync.start(call(manager, "doubling", 21))
        assert sync.result(workflow_id, timeout=LONG) == 42
        waiting = sync.start(call(manager, "waiting"), id="w")
        assert isinstance(sync.status(waiting), InProgress)
        assert sync.send_event("go", workflow_id=waiting, value=[1])
        assert sync.result(waiting, timeout=LONG) == [1]
        other = sync.start(call(manager, "waiting"))
        sync.cancel(other)
        with pytest.raises(WorkflowCanceled):
            sync.result(other, timeout=LONG)
        assert sync.run_mutation(call(manager, "put", "x")) == "x"
        assert sync.run_query(call(manager, "get")) == 1
        assert len(sync.list_workflows()) == 3
        assert [step.name for step in sync.list_steps(workflow_id)] == ["double"]
        sync.update_config(max_parallelism=3)
        assert sync.config().max_parallelism == 3


def test_a_timeout(manager: WorkflowManager) -> None:
    """A blocking wait can be bounded."""
    with manager.sync as sync:
        workflow_id = sync.start(call(manager, "waiting"))
        with pytest.raises(TimeoutError):
            sync.result(workflow_id, timeout=0.01)


def test_the_first_call_opens_a_client(manager: WorkflowManager) -> None:
    """Without `with` the store is opened as a client: nothing is worked on in this process."""
    sync = manager.sync
    workflow_id = sync.start(call(manager, "doubling", 1))
    try:
        assert isinstance(sync.status(workflow_id), InProgress)
        assert threads_of_ours() != set()
    finally:
        sync.close()
    with manager.sync:
        assert sync.result(workflow_id, timeout=LONG) == 2


def test_what_a_first_call_has_opened_makes_way(manager: WorkflowManager) -> None:
    """For whoever opens the manager by name: nobody had said that it was open. Each in its turn,
    and the next call opens it again."""
    sync = manager.sync
    started: list[str] = []

    def start() -> str:
        started.append(sync.start(call(manager, "doubling", len(started))))
        return started[-1]

    async def worker(workflow_id: str) -> Any:
        async with manager:
            return await manager.result(workflow_id, timeout=LONG)

    async def client(workflow_id: str) -> Any:
        async with manager.client():
            return (await manager.status(workflow_id)).kind

    start()
    manager.run(until_idle=True)
    assert sync.status(started[0]) == Succeeded(0)
    assert asyncio.run(worker(start())) == 2
    assert asyncio.run(client(start())) == "in_progress"
    start()
    with sync:
        assert sync.result(started[3], timeout=LONG) == 6
    with pytest.raises(NotOpen):
        asyncio.run(manager.status(started[0]))


@contextmanager
def call_under_way(manager: WorkflowManager, pool: Executor) -> Iterator[Callable[[], Future[Any]]]:
    """A call in another thread that takes until what this gives is called."""
    began, go = threading.Event(), threading.Event()

    @manager.mutation(name=f"held {next(NUMBERS)}")
    def held(ctx: MutationContext) -> str:
        began.set()
        assert go.wait(LONG)
        return "done"

    answer = pool.submit(manager.sync.run_mutation, held())
    assert began.wait(LONG)

    def end() -> Future[Any]:
        go.set()
        return answer

    yield end
    go.set()


def is_waiting(manager: WorkflowManager) -> bool:
    """Whether somebody waits for the calls to end."""
    return manager.sync._is_leaving


def test_who_opens_it_waits_for_calls_under_way(manager: WorkflowManager) -> None:
    """By each of the ways; and calls that come meanwhile wait for whoever that is."""

    async def worker() -> str:
        async with manager:
            return "worked"

    async def client() -> str:
        async with manager.client():
            return "worked"

    def blocking() -> str:
        with manager.sync:
            return "worked"

    ways = (
        partial(manager.run, until_idle=True),
        lambda: asyncio.run(worker()),
        lambda: asyncio.run(client()),
        blocking,
    )
    with ThreadPoolExecutor(4) as pool:
        for way in ways:
            with call_under_way(manager, pool) as end:
                opened = pool.submit(way)
                while not is_waiting(manager):
                    assert not opened.done(), opened.result()
                later = pool.submit(manager.sync.list_workflows)
                assert end().result(LONG) == "done"
                opened.result(LONG)
                assert later.result(LONG).items == []
    manager.sync.close()


def test_who_opens_it_waits_for_a_call_that_opens_it(tmp_path: Path) -> None:
    """That was there first, and is done soon."""
    manager = WorkflowManager(tmp_path / "app.db")
    other = sqlite3.connect(tmp_path / "app.db", check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(2) as pool:
        answer = pool.submit(manager.sync.list_workflows)
        while manager._opening is None:
            assert not answer.done()
        worker = pool.submit(manager.run, until_idle=True)
        with pytest.raises(TimeoutError):
            worker.result(timeout=0.1)
        other.close()
        assert answer.result(LONG).items == []
        worker.result(LONG)
    manager.sync.close()


def test_no_call_comes_between_closing_and_opening(manager: WorkflowManager) -> None:
    """However many threads call all the time."""
    ended = threading.Event()

    def calls() -> int:
        count = 0
        while not ended.is_set():
            assert manager.sync.list_workflows().items == []
            count += 1
        return count

    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(calls) for _ in range(3)]
        try:
            for _ in range(10):
                manager.run(until_idle=True)
        finally:
            ended.set()
        assert all(answer.result(LONG) for answer in answers)
    manager.sync.close()


def test_a_cancelled_opening_that_waits_opens_nothing(manager: WorkflowManager) -> None:
    """Neither at once, nor when the call has ended."""

    async def opening() -> None:
        async with manager:
            raise AssertionError("it was opened")

    async def cancelled() -> None:
        task = asyncio.create_task(opening())
        while not is_waiting(manager):  # noqa: ASYNC110  A thread tells nobody of it.
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        end()

    with ThreadPoolExecutor(1) as pool, call_under_way(manager, pool) as end:
        asyncio.run(cancelled())
        assert end().result(LONG) == "done"
    manager.run(until_idle=True)


def test_a_watch_goes_on_beside_one_who_waited_in_vain(manager: WorkflowManager) -> None:
    """Nothing was closed: the watch waits as long, and is none the worse for it."""
    sync = manager.sync
    sync.patience = 0.1
    workflow_id = sync.start(call(manager, "doubling", 1))
    changes = sync.watch(workflow_id)
    assert isinstance(next(changes), InProgress)
    with ThreadPoolExecutor(2) as pool, call_under_way(manager, pool) as end:
        opened = pool.submit(manager.run)
        while not is_waiting(manager) and not opened.done():
            pass
        change = pool.submit(next, changes)
        with pytest.raises(PerdureError, match="open already"):
            opened.result(LONG)
        end().result(LONG)
        sync.cancel(workflow_id)
        assert change.result(LONG) == Canceled()
    sync.close()


def test_a_call_that_takes_long_keeps_it_open(manager: WorkflowManager) -> None:
    """Another thread waits for a result: whoever would close that is told after a while."""
    sync = manager.sync
    sync.patience = 0.01
    workflow_id = sync.start(call(manager, "doubling", 1))
    faults: list[BaseException] = []

    def wait() -> None:
        try:
            sync.result(workflow_id, timeout=LONG)
        except BaseException as fault:
            faults.append(fault)

    thread = threading.Thread(target=wait)
    thread.start()
    engine = manager._engine
    assert engine is not None
    while not engine.waiters.ids():
        thread.join(0)  # only lets it run
    with pytest.raises(PerdureError, match="open already"):
        manager.run(until_idle=True)
    assert sync.list_workflows().items != []
    sync.cancel(workflow_id)
    thread.join(LONG)
    assert [type(fault) for fault in faults] == [WorkflowCanceled]
    sync.close()


def test_a_call_waits_for_another_thread_that_opens_it(manager: WorkflowManager) -> None:
    """It is not open, and must not be opened twice: whoever opens it by name is nearly done."""
    opening = Opening()
    manager._reserve(opening)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(manager.sync.list_workflows)
        with pytest.raises(TimeoutError):
            answer.result(timeout=0.1)
        manager._free(opening)
        assert answer.result(LONG).items == []
    manager.sync.close()


def test_a_call_waits_for_a_worker_that_opens_its_store(tmp_path: Path) -> None:
    """What that opens has no answers before it is open."""
    manager = WorkflowManager(tmp_path / "app.db")
    assert manager.sync.list_workflows().items == []
    manager.sync.close()
    other = sqlite3.connect(tmp_path / "app.db", check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(2) as pool:
        worker = pool.submit(manager.run)
        while manager._opening is None:
            assert not worker.done()
        answer = pool.submit(manager.sync.list_workflows)
        with pytest.raises(TimeoutError):
            answer.result(timeout=0.1)
        other.close()
        assert answer.result(LONG).items == []
        assert isinstance(manager._engine, LoopEngine)
        manager._engine.stop()
        worker.result(LONG)


def test_a_watch_that_was_left_at_rest_is_told(manager: WorkflowManager) -> None:
    """Nobody waits in it: it is closed with the rest, and says so when it is asked again."""
    changes = manager.sync.watch(manager.sync.start(call(manager, "doubling", 1)))
    assert next(changes).kind == "in_progress"
    manager.run(until_idle=True)
    with pytest.raises(NotOpen):
        next(changes)


def test_closing_twice_and_opening_again(manager: WorkflowManager) -> None:
    """A manager may be closed when it is closed, and opened as often as one likes."""
    for n in range(3):
        with manager.sync as sync:
            assert sync.result(sync.start(call(manager, "doubling", n)), timeout=LONG) == 2 * n
        sync.close()


def test_calls_from_many_threads(manager: WorkflowManager) -> None:
    """Each thread gets its own answer."""
    with manager.sync as sync, ThreadPoolExecutor(8) as pool:

        def one(n: int) -> Any:
            return sync.result(sync.start(call(manager, "doubling", n)), timeout=LONG)

        assert list(pool.map(one, range(50))) == [2 * n for n in range(50)]


def test_first_calls_from_many_threads(manager: WorkflowManager) -> None:
    """The store is opened once, whoever comes first."""
    barrier = threading.Barrier(8)

    def one(n: int) -> str:
        barrier.wait(LONG)
        return manager.sync.start(call(manager, "doubling", n), id=f"w{n}")

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(one, range(8))) == [f"w{n}" for n in range(8)]
    assert len(manager.sync.list_workflows()) == 8
    manager.sync.close()


def test_beside_an_open_manager(manager: WorkflowManager) -> None:
    """A thread of an asynchronous program uses the blocking calls of the same manager."""

    def in_threads(barrier: threading.Barrier, n: int) -> Any:
        barrier.wait(LONG)
        sync = manager.sync
        return sync.result(sync.start(call(manager, "doubling", n)), timeout=LONG)

    async def main() -> Any:
        before = threads_of_ours()
        barrier = threading.Barrier(4)
        async with manager:
            jobs = [asyncio.to_thread(in_threads, barrier, n) for n in range(4)]
            results = await asyncio.gather(*jobs)
            new = threads_of_ours() - before
        manager.sync.close()
        return results, len([t for t in threading.enumerate() if t.name in new])

    results, count = asyncio.run(main())
    assert results == [0, 2, 4, 6]
    assert count <= 1


def test_inside_a_loop_it_is_refused(manager: WorkflowManager) -> None:
    """A blocking call would stop the loop; the error names the coroutine."""

    async def main() -> None:
        with pytest.raises(PerdureError, match="async with manager"):
            manager.sync.__enter__()
        async with manager:
            with pytest.raises(PerdureError, match=r"await manager\.status"):
                manager.sync.status("x")

    asyncio.run(main())


def test_inside_a_workflow_it_is_refused(manager: WorkflowManager) -> None:
    """A handler or mutation that blocks on its own engine would never end."""

    @manager.mutation
    def asking(ctx: MutationContext) -> None:
        with pytest.raises(PerdureError, match="inside a mutation"):
            manager.sync.__enter__()
        manager.sync.status("x")

    @manager.workflow
    async def asking_too(step: Step) -> None:
        manager.sync.status("x")

    with manager.sync as sync:
        with pytest.raises(PerdureError, match="inside a mutation"):
            sync.run_mutation(asking())
        with pytest.raises(WorkflowFailed, match="inside a workflow"):
            sync.result(sync.start(asking_too()), timeout=LONG)


def test_open_twice_is_refused(manager: WorkflowManager) -> None:
    """A manager works once in a process; the first opening is not disturbed."""
    with manager.sync as sync:
        with pytest.raises(PerdureError, match="open already"):
            sync.__enter__()
        assert sync.result(sync.start(call(manager, "doubling", 1)), timeout=LONG) == 2


def test_closing_ends_the_waits_of_other_threads(manager: WorkflowManager) -> None:
    """A thread that waits for a result is told that the manager was closed."""
    faults: list[BaseException] = []
    with manager.sync as sync:
        workflow_id = sync.start(call(manager, "waiting"))

        def wait() -> None:
            try:
                sync.result(workflow_id, timeout=LONG)
            except BaseException as error:
                faults.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        engine = manager._engine
        assert engine is not None
        while not engine.waiters.ids():
            thread.join(0)  # only lets it run
    thread.join(LONG)
    assert not thread.is_alive()
    assert [type(fault) for fault in faults] == [NotOpen]


def test_a_fork_is_refused(manager: WorkflowManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child has not our thread: each call raises instead of waiting for it for ever."""
    with manager.sync as sync:
        with monkeypatch.context() as patch:
            # As it looks to the child; a real fork beside running threads may hang.
            parent = os.getpid()
            patch.setattr(os, "getpid", lambda: parent + 1)
            for refused in (lambda: sync.status("x"), sync.__enter__, sync.close):
                with pytest.raises(NotOpen, match="before a fork"):
                    refused()
        assert sync.result(sync.start(call(manager, "doubling", 1)), timeout=LONG) == 2


def test_a_fork_before_the_first_use_is_fine(
    manager: WorkflowManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that loads the app and then forks has opened nothing yet."""
    sync = manager.sync
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    with sync:
        assert sync.result(sync.start(call(manager, "doubling", 1)), timeout=LONG) == 2


def test_closing_waits_for_its_thread(manager: WorkflowManager) -> None:
    """Nothing of it runs any more when the interpreter shuts down."""
    before = set(threading.enumerate())
    with manager.sync as sync:
        sync.start(call(manager, "doubling", 1))
        assert set(threading.enumerate()) - before
    assert set(threading.enumerate()) - before == set()

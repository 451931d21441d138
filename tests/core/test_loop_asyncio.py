"""asyncio's own tools on the workflow's event loop: they work, and in the same order each time."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextvars import Context, ContextVar
from typing import Any

import pytest

from perdure.core.loop import WorkflowLoop, hook_asyncgens, unhook_asyncgens

START = 1_700_000_000_000


class Handler:
    """Runs `main(handler)` on a loop; `main` gets futures from `step(name)`."""

    def __init__(self, main: Callable[[Handler], Coroutine[Any, Any, Any]]) -> None:
        self.loop = WorkflowLoop("w", START)
        self.steps: dict[str, asyncio.Future[Any]] = {}
        self.log: list[str] = []
        with self.loop.entered():
            self.task = self.loop.create_task(main(self), context=Context())
            self.loop.drain()

    def step(self, name: str) -> asyncio.Future[Any]:
        """A future that `deliver` resolves; called by the handler."""
        future = self.steps[name] = self.loop.create_future()
        return future

    async def run(self, name: str) -> Any:
        """Await a step; log how that ended."""
        try:
            value = await self.step(name)
        except BaseException as error:
            self.log.append(f"{name} {type(error).__name__}")
            raise
        self.log.append(f"{name} ended")
        return value

    def deliver(self, name: str, value: Any = None) -> None:
        """One fact: the step's outcome, an exception or a value."""
        with self.loop.entered():
            if isinstance(value, BaseException):
                self.steps[name].set_exception(value)
            else:
                self.steps[name].set_result(value)
            self.loop.drain()

    def tick(self, seconds: float) -> int:
        """Let time go on to `seconds` after the start."""
        with self.loop.entered():
            return self.loop.fire_timers(START + round(seconds * 1000))

    def next_timer(self) -> int | None:
        """When the next timer is due, in ms after the start."""
        at = self.loop.next_timer_ms()
        return None if at is None else at - START


pytestmark = pytest.mark.usefixtures("no_noise")


def test_a_handler_awaits_steps_one_after_another() -> None:
    """A value is returned, an exception raised, where the step is awaited."""

    async def main(h: Handler) -> list[Any]:
        first = await h.step("a")
        try:
            await h.step("b")
        except ValueError as error:
            return [first, str(error)]
        return []

    handler = Handler(main)
    handler.deliver("a", 1)
    assert not handler.task.done()
    handler.deliver("b", ValueError("no"))
    assert handler.task.result() == [1, "no"]


def test_gather_returns_in_call_order() -> None:
    """Results come in the order of the arguments, whatever ended first."""

    async def main(h: Handler) -> list[Any]:
        return list(await asyncio.gather(h.run("a"), h.step("b"), h.run("c")))

    handler = Handler(main)
    for name in "cba":
        handler.deliver(name, name.upper())
    assert handler.task.result() == ["A", "B", "C"]
    assert handler.log == ["c ended", "a ended"]


def test_gather_raises_the_first_failure() -> None:
    """The first failure ends the gather; the others go on, until the handler's end."""

    async def main(h: Handler) -> Any:
        try:
            return await asyncio.gather(h.run("a"), h.run("b"), h.run("c"))
        except ValueError as error:
            return str(error)

    handler = Handler(main)
    handler.deliver("b", ValueError("b failed"))
    assert handler.task.result() == "b failed"
    handler.loop.cancel_tasks()
    assert handler.log == ["b ValueError", "a CancelledError", "c CancelledError"]


def test_task_group_waits_for_all() -> None:
    """The block ends when its last task has ended."""

    async def main(h: Handler) -> list[Any]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(h.run(name)) for name in "ab"]
        return [task.result() for task in tasks]

    handler = Handler(main)
    handler.deliver("b", 2)
    handler.deliver("a", 1)
    assert handler.task.result() == [1, 2]


def test_task_group_aborts_in_the_same_order_each_time() -> None:
    """The group keeps its tasks in a set: it cancels them in the same order in every run."""
    names = [f"s{number}" for number in range(20)]

    async def main(h: Handler) -> None:
        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(h.run(name))

    logs = []
    for _ in range(5):
        handler = Handler(main)
        handler.deliver("s3", ValueError("bad"))
        error = handler.task.exception()
        assert isinstance(error, ExceptionGroup)
        assert [str(part) for part in error.exceptions] == ["bad"]
        assert sorted(handler.log) == sorted(
            ["s3 ValueError"] + [f"{name} CancelledError" for name in names if name != "s3"]
        )
        logs.append(handler.log)
    assert logs == [logs[0]] * 5


def test_timeout_fires_only_by_a_tick() -> None:
    """asyncio.timeout ends its block when the time of its timer is delivered, not before."""

    async def main(h: Handler) -> str:
        try:
            async with asyncio.timeout(2.5):
                await h.run("a")
        except TimeoutError:
            return "timeout"
        return "in time"

    handler = Handler(main)
    assert handler.next_timer() == 2500
    handler.loop.set_now(START + 9000)
    assert handler.tick(2.499) == 1  # time does not go back: 9 s have passed
    assert handler.task.result() == "timeout"

    handler = Handler(main)
    assert handler.tick(2.499) == 0
    handler.deliver("a")
    assert handler.task.result() == "in time"
    assert handler.next_timer() is None


def test_timeout_that_is_over_at_once() -> None:
    """timeout(0) needs no tick."""

    async def main(h: Handler) -> str:
        try:
            async with asyncio.timeout(0):
                await h.step("a")
        except TimeoutError:
            return "timeout"
        return "in time"

    assert Handler(main).task.result() == "timeout"


@pytest.mark.parametrize("in_time", [True, False])
def test_wait_for(in_time: bool) -> None:
    """wait_for returns the value, or cancels what it waits for when its timer fires."""

    async def main(h: Handler) -> Any:
        try:
            return await asyncio.wait_for(h.run("a"), timeout=1)
        except TimeoutError:
            return "timeout"

    handler = Handler(main)
    if in_time:
        handler.deliver("a", "value")
        assert handler.task.result() == "value"
        assert handler.log == ["a ended"]
    else:
        assert handler.tick(1) == 1
        assert handler.task.result() == "timeout"
        assert handler.log == ["a CancelledError"]
    assert handler.next_timer() is None


def test_wait_first_completed() -> None:
    """wait returns when the first one is done, in an order that is the same in each run."""

    async def main(h: Handler) -> tuple[list[str], list[str]]:
        tasks = [asyncio.create_task(h.run(name), name=name) for name in "abcdefgh"]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.wait(pending)
        return [task.get_name() for task in done], [task.get_name() for task in pending]

    results = []
    for _ in range(5):
        handler = Handler(main)
        handler.deliver("c")
        done, pending = handler.task.result()
        assert done == ["c"]
        assert sorted(pending) == list("abdefgh")
        results.append((pending, handler.log))
    assert results == [results[0]] * 5


def test_wait_with_timeout() -> None:
    """wait(timeout=) returns what is done when its timer fires."""

    async def main(h: Handler) -> tuple[int, int]:
        done, pending = await asyncio.wait([h.step("a"), h.step("b")], timeout=3)
        return len(done), len(pending)

    handler = Handler(main)
    handler.deliver("a")
    handler.tick(3)
    assert handler.task.result() == (1, 1)


def test_as_completed_over_tasks_and_futures() -> None:
    """as_completed yields in the order of completion."""

    async def main(h: Handler) -> list[Any]:
        waiting = [asyncio.create_task(h.run("a")), h.step("b"), asyncio.create_task(h.run("c"))]
        return [await first for first in asyncio.as_completed(waiting)]

    handler = Handler(main)
    for name in "bca":
        handler.deliver(name, name)
    assert handler.task.result() == ["b", "c", "a"]


def test_shield_keeps_the_inner_one_running() -> None:
    """Cancelling who awaits a shield does not cancel what it shields."""

    async def main(h: Handler) -> Any:
        inner = asyncio.create_task(h.run("a"))
        outer = asyncio.create_task(wait_for_it(inner))
        await h.step("go")
        outer.cancel()
        await asyncio.wait([outer])
        h.log.append("outer gone")
        return await inner

    async def wait_for_it(inner: asyncio.Task[Any]) -> None:
        await asyncio.shield(inner)

    handler = Handler(main)
    handler.deliver("go")
    handler.deliver("a", "value")
    assert handler.task.result() == "value"
    assert handler.log == ["outer gone", "a ended"]


def test_sleep_fires_by_ticks_in_order() -> None:
    """Sleeping tasks wake by time, and read that time from the loop."""

    async def nap(h: Handler, seconds: float) -> None:
        await asyncio.sleep(seconds)
        h.log.append(f"{seconds} at {asyncio.get_running_loop().time()}")

    async def main(h: Handler) -> None:
        await asyncio.gather(nap(h, 3), nap(h, 1), nap(h, 2), nap(h, 0))

    handler = Handler(main)
    assert handler.next_timer() == 1000
    assert handler.tick(0.999) == 0
    assert handler.tick(1) == 1
    assert handler.tick(5) == 2
    assert handler.log == ["0 at 0.0", "1 at 1.0", "2 at 5.0", "3 at 5.0"]
    assert handler.task.done()


def test_cancelling_a_task_reaches_its_step() -> None:
    """Task.cancel raises CancelledError where the task awaits, and cancels that future."""

    async def main(h: Handler) -> bool:
        task = asyncio.create_task(h.run("a"))
        await asyncio.sleep(0)
        task.cancel("enough")
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return task.cancelled() and h.steps["a"].cancelled()

    handler = Handler(main)
    assert handler.task.result() is True
    assert handler.log == ["a CancelledError"]


def test_queue_passes_items_in_order() -> None:
    """A bounded Queue makes the producer wait; items arrive in order."""

    async def producer(queue: asyncio.Queue[int]) -> None:
        for number in range(5):
            await queue.put(number)

    async def main(h: Handler) -> list[int]:
        queue: asyncio.Queue[int] = asyncio.Queue(maxsize=2)
        task = asyncio.create_task(producer(queue))
        items: list[int] = []
        while len(items) < 5:
            await h.step(f"s{len(items)}")
            items.append(await queue.get())
            queue.task_done()
        await task
        await queue.join()
        return items

    handler = Handler(main)
    for number in range(5):
        handler.deliver(f"s{number}")
    assert handler.task.result() == [0, 1, 2, 3, 4]


def test_lock_and_semaphore_are_fair() -> None:
    """Who waits longest gets the lock next; a semaphore lets in as many as it says."""

    async def locked(h: Handler, gate: asyncio.Lock | asyncio.Semaphore, name: str) -> None:
        async with gate:
            await h.run(name)

    async def main(h: Handler) -> None:
        lock = asyncio.Lock()
        await asyncio.gather(*(locked(h, lock, name) for name in "abc"))
        semaphore = asyncio.Semaphore(2)
        await asyncio.gather(*(locked(h, semaphore, name) for name in "xyz"))

    handler = Handler(main)
    for name in "abc":
        assert list(handler.steps)[-1] == name
        handler.deliver(name)
    assert list(handler.steps)[3:] == ["x", "y"]
    handler.deliver("y")
    handler.deliver("z")
    handler.deliver("x")
    assert handler.task.done()
    assert handler.log == [f"{name} ended" for name in "abcyzx"]


def test_event_and_condition_wake_in_order() -> None:
    """Event.set and Condition.notify_all wake the waiters in the order in which they came."""

    async def on_event(h: Handler, event: asyncio.Event, name: str) -> None:
        await event.wait()
        h.log.append(name)

    async def on_condition(h: Handler, condition: asyncio.Condition, name: str) -> None:
        async with condition:
            await condition.wait()
            h.log.append(name)

    async def main(h: Handler) -> None:
        event, condition = asyncio.Event(), asyncio.Condition()
        tasks = [asyncio.create_task(on_event(h, event, name)) for name in "ab"]
        tasks += [asyncio.create_task(on_condition(h, condition, name)) for name in "cd"]
        await h.step("go")
        event.set()
        async with condition:
            condition.notify_all()
        await asyncio.gather(*tasks)

    handler = Handler(main)
    assert handler.log == []
    handler.deliver("go")
    assert handler.log == ["a", "b", "c", "d"]
    assert handler.task.done()


def test_barrier_releases_all_at_once() -> None:
    """A Barrier holds its parties until the last one is there."""

    async def party(h: Handler, barrier: asyncio.Barrier, name: str) -> None:
        await h.run(name)
        await barrier.wait()
        h.log.append(f"{name} passed")

    async def main(h: Handler) -> None:
        barrier = asyncio.Barrier(2)
        await asyncio.gather(party(h, barrier, "a"), party(h, barrier, "b"))

    handler = Handler(main)
    handler.deliver("a")
    assert handler.log == ["a ended"]
    handler.deliver("b")
    assert sorted(handler.log[2:]) == ["a passed", "b passed"]
    assert handler.task.done()


def test_context_variables_are_inherited_and_kept_apart() -> None:
    """A child task sees its parent's variables as they were, and changes only its own."""
    variable: ContextVar[str] = ContextVar("variable", default="unset")

    async def child() -> str:
        seen = variable.get()
        variable.set("child's")
        await asyncio.sleep(0)
        return seen + ", " + variable.get()

    async def main(h: Handler) -> list[str]:
        variable.set("parent's")
        task = asyncio.create_task(child())
        variable.set("changed")
        return [await task, variable.get()]

    handler = Handler(main)
    assert handler.task.result() == ["parent's, child's", "changed"]
    assert variable.get() == "unset"


def test_async_generators_and_context_managers() -> None:
    """async for, async with and aclosing work across awaits of steps."""

    async def pages(h: Handler) -> Any:
        try:
            for number in range(3):
                yield await h.step(f"page{number}")
        finally:
            await h.step("close")
            h.log.append("closed")

    @contextlib.asynccontextmanager
    async def session(h: Handler) -> Any:
        await h.step("login")
        try:
            yield "session"
        finally:
            await h.step("logout")

    async def main(h: Handler) -> list[Any]:
        found: list[Any] = []
        async with session(h), contextlib.aclosing(pages(h)) as items:
            async for item in items:
                found.append(item)
                if item == "last":
                    break
        return found

    handler = Handler(main)
    handler.deliver("login")
    handler.deliver("page0", "first")
    handler.deliver("page1", "last")
    handler.deliver("close")
    handler.deliver("logout")
    assert handler.task.result() == ["first", "last"]
    assert handler.log == ["closed"]


def test_two_runs_of_one_history_are_the_same() -> None:
    """The same facts in the same order give the same callbacks, with all of this mixed."""

    async def worker(h: Handler, lock: asyncio.Lock, name: str) -> None:
        async with lock:
            h.log.append(f"{name} locked")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await h.run(name)
        await asyncio.sleep(1)
        h.log.append(f"{name} slept")

    async def main(h: Handler) -> None:
        lock = asyncio.Lock()
        async with asyncio.TaskGroup() as group:
            for name in "abcd":
                group.create_task(worker(h, lock, name))

    logs = []
    for _ in range(3):
        handler = Handler(main)
        handler.deliver("c")
        handler.tick(1)
        handler.deliver("a")
        handler.tick(2)
        while (at := handler.next_timer()) is not None:
            handler.tick(at / 1000)
        assert handler.task.done()
        logs.append(handler.log)
    assert logs == [logs[0]] * 3
    assert len(logs[0]) == 12


def test_hooks_may_be_set_once_around_many_handlers() -> None:
    """Each async generator ends with the loop in which it began; then all is as it was."""

    async def numbers(h: Handler, name: str) -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            h.log.append(name)

    async def reads(h: Handler, name: str) -> None:
        async for _ in numbers(h, name):
            await h.step("a")

    before = sys.get_asyncgen_hooks()
    hooks = hook_asyncgens()
    try:
        one, two = Handler(lambda h: reads(h, "one")), Handler(lambda h: reads(h, "two"))
        assert hook_asyncgens() is None
        two.loop.close_tasks()
        assert (one.log, two.log) == ([], ["two"])
        one.loop.close_tasks()
        assert one.log == ["one"]
    finally:
        unhook_asyncgens(hooks)
    assert sys.get_asyncgen_hooks() == before

"""How a workflow's event loop ends: dropped handlers, left-over tasks, async generators."""

from __future__ import annotations

import asyncio
import gc
import sys
import warnings
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextvars import Context, ContextVar
from typing import Any

import pytest

from perdure.core.loop import HandlerSpins, WorkflowLoop

START = 1_700_000_000_000


def started(
    main: Callable[[], Coroutine[Any, Any, Any]], workflow_id: str = "w"
) -> tuple[WorkflowLoop, asyncio.Task[Any]]:
    """A loop whose first task runs `main()`, advanced until it blocks."""
    loop = WorkflowLoop(workflow_id, START)
    with loop.entered():
        task = loop.create_task(main(), context=Context())
        loop.drain()
    return loop, task


def tick(loop: WorkflowLoop, ms: int) -> int:
    """Fire what is due `ms` after the start."""
    with loop.entered():
        return loop.fire_timers(START + ms)


@pytest.fixture(autouse=True)
def no_noise(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test here also checks that nothing is printed or warned about, collector included."""
    noise: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", noise.append)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
        gc.collect()
    assert noise == []


# ── the end ──────────────────────────────────────────────────────────────────────────────────


def test_a_dropped_handler_is_closed_in_creation_order() -> None:
    """Each coroutine gets GeneratorExit where it stands, in order; none goes on running."""
    log: list[str] = []

    async def child(name: str) -> None:
        try:
            await asyncio.get_running_loop().create_future()
            log.append("went on")
        except BaseException as error:
            log.append(f"{name} {type(error).__name__}")
            raise
        finally:
            current = asyncio.current_task()
            assert current is not None
            log.append(current.get_name())

    async def main() -> None:
        tasks = [asyncio.create_task(child(name), name=name) for name in "abc"]
        asyncio.create_task(child("never started"))  # noqa: RUF006 -- the loop holds it
        await asyncio.gather(*tasks)

    loop = WorkflowLoop("w", START)
    with loop.entered():
        task = loop.create_task(main(), context=Context())
        loop.drain()
        loop.create_task(child("not started"))
        loop.create_task(child("never started"))
    loop.close_tasks()
    loop.close_tasks()
    never = "never started GeneratorExit"
    assert log[:6] == ["a GeneratorExit", "a", "b GeneratorExit", "b", "c GeneratorExit", "c"]
    assert log[6:] == [never, "Task-5"]
    assert task.done()
    assert loop.tasks == []
    assert loop.unhandled == []


def test_a_closed_handler_leaves_nothing_behind() -> None:
    """Coroutines, tasks and futures go away at once, without the collector, and silently."""

    async def child() -> None:
        await asyncio.sleep(3600)

    async def main() -> None:
        alive.extend(weakref.ref(asyncio.create_task(child())) for _ in range(5))
        alive.append(weakref.ref(asyncio.current_task()))
        async with asyncio.timeout(5):
            await asyncio.get_running_loop().create_future()

    alive: list[weakref.ref[Any]] = []
    gc.disable()
    try:
        loop, task = started(main)
        loop.close()
        del task
        assert [ref() for ref in alive] == [None] * 6
    finally:
        gc.enable()
    assert loop.is_closed()
    assert loop.next_timer_ms() is None


def test_awaiting_while_closed_ends_there() -> None:
    """A `finally` that awaits is cut off there, and a stubborn coroutine is closed again."""
    log: list[str] = []

    async def main() -> None:
        try:
            await asyncio.sleep(1)
        finally:
            log.append("before")
            try:
                await asyncio.sleep(1)
            finally:
                log.append("inner")
            log.append("after")

    loop, _ = started(main)
    loop.close()
    assert log == ["before", "inner"]


def test_a_stubborn_coroutine_below_another_is_closed_again() -> None:
    """The one that awaits it has ended by then, and reaches it no more."""
    log: list[str] = []

    async def stubborn() -> None:
        while len(log) < 3:
            try:
                await asyncio.sleep(1)
            except BaseException as error:
                log.append(type(error).__name__)

    async def between() -> None:
        await stubborn()

    async def main() -> None:
        await between()

    loop, _ = started(main)
    loop.close()
    assert log == ["GeneratorExit"] * 3


def test_a_task_group_is_closed_silently() -> None:
    """TaskGroup answers GeneratorExit with cancelling its children and awaiting them."""
    log: list[str] = []

    async def child(name: str) -> None:
        try:
            await asyncio.sleep(1)
        finally:
            log.append(name)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for name in "abc":
                group.create_task(child(name))
            await asyncio.sleep(1)

    loop, _ = started(main)
    loop.close()
    assert log == ["a", "b", "c"]
    assert loop.unhandled == []


def test_no_task_and_no_callback_while_closing() -> None:
    """New tasks are refused without a warning, and callbacks that a `finally` sets never run."""
    log: list[str] = []

    async def child() -> None:
        log.append("child")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_future()
        finally:
            loop.call_soon(log.append, "callback")
            loop.call_later(1, log.append, "timer")
            try:
                asyncio.create_task(child())  # noqa: RUF006 -- the loop holds it
            except RuntimeError as error:
                log.append(str(error))

    loop, _ = started(main)
    loop.close_tasks()
    assert tick(loop, 5000) == 0
    loop.close()
    assert log == ["no new task: workflow 'w' is being closed"]


def test_closing_runs_in_the_context_of_the_task() -> None:
    """A token of a context variable can be reset in the `finally` of a dropped handler."""
    variable: ContextVar[int] = ContextVar("variable")
    log: list[str] = []

    async def main() -> None:
        token = variable.set(1)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            variable.reset(token)
            log.append("reset")

    loop, _ = started(main)
    loop.close()
    assert log == ["reset"]


def test_a_handler_cannot_close_its_own_loop() -> None:
    """close() and close_tasks() called by the handler raise in the handler."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        with pytest.raises(RuntimeError, match="while it advances"):
            loop.close()
        with pytest.raises(RuntimeError, match="own handler"):
            loop.close_tasks()

    loop, task = started(main)
    task.result()
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.enter()


def test_the_end_cancels_what_still_runs_in_creation_order() -> None:
    """cancel_tasks() lets each task catch the cancellation, clean up, and end."""
    log: list[str] = []

    async def child(name: str) -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            log.append(name)
            raise

    async def main() -> str:
        for name in "cab":
            asyncio.create_task(child(name))  # noqa: RUF006 -- the loop holds it
        await asyncio.sleep(0)
        return "result"

    loop, task = started(main)
    assert len(loop.tasks) == 3
    loop.cancel_tasks()
    assert task.result() == "result"
    assert log == ["c", "a", "b"]
    assert loop.tasks == []
    assert loop.unhandled == []


def test_tasks_that_refuse_to_end_are_closed() -> None:
    """A task that swallows every cancellation, or spins, does not hold up the handler's end."""
    log: list[str] = []

    async def stubborn() -> None:
        try:
            while True:
                try:
                    await asyncio.sleep(100)
                except asyncio.CancelledError:
                    log.append("cancelled")
        finally:
            log.append("closed")

    async def spins() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            while True:  # noqa: ASYNC110 -- it is meant to spin
                await asyncio.sleep(0)

    async def main() -> None:
        asyncio.create_task(stubborn())  # noqa: RUF006 -- the loop holds it

    async def spinning() -> None:
        asyncio.create_task(spins())  # noqa: RUF006 -- the loop holds it

    loop, _ = started(main)
    loop.cancel_tasks()
    assert log == ["cancelled"] * 10 + ["closed"]
    loop, _ = started(spinning)
    loop.cancel_tasks()
    assert loop.tasks == []
    assert [type(report["exception"]) for report in loop.unhandled] == [HandlerSpins]


# ── async generators ─────────────────────────────────────────────────────────────────────────


async def numbers(log: list[str]) -> AsyncIterator[int]:
    """0, 1, 2; logs when it is closed, after an await."""
    try:
        for number in range(3):
            await asyncio.sleep(0)
            yield number
    finally:
        log.append("closing")
        await asyncio.sleep(0)
        log.append("closed")


def test_an_async_generator_left_behind_is_closed_at_the_end() -> None:
    """Not when the collector finds it, which differs from run to run, but when the handler ends."""
    log: list[str] = []

    async def main() -> None:
        async for _ in numbers(log):
            break
        gc.collect()
        await asyncio.sleep(0)
        log.append("main")

    loop, _ = started(main)
    loop.cancel_tasks()
    assert log == ["main", "closing", "closed"]


def test_an_async_generator_of_a_dropped_handler_is_closed() -> None:
    """Like a coroutine: its `finally` runs up to the first await."""
    log: list[str] = []

    async def main() -> None:
        async for _ in numbers(log):
            break
        await asyncio.get_running_loop().create_future()

    loop, _ = started(main)
    loop.close()
    assert log == ["closing"]


def test_what_an_async_generator_of_a_dropped_handler_waits_for_is_closed() -> None:
    """It stands in a coroutine in the middle of a step: that ends too, however often it awaits."""
    log: list[str] = []

    async def inner() -> int:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(forever())
                await forever()
        finally:
            log.append("inner")
        return 1

    async def forever() -> None:
        await asyncio.get_running_loop().create_future()

    async def outer() -> AsyncIterator[int]:
        async for value in values():
            yield value

    async def values() -> AsyncIterator[int]:
        yield await inner()

    async def main() -> list[int]:
        return [value async for value in outer()]

    loop, task = started(main)
    loop.close()
    assert log == ["inner"]
    assert task.cancelled()


def test_exhausted_async_generators_leave_the_memory() -> None:
    """The loop keeps only those that have not ended."""

    async def main() -> None:
        for _ in range(100):
            generator = numbers([])
            gone.append(weakref.ref(generator))
            assert [number async for number in generator] == [0, 1, 2]

    gone: list[weakref.ref[Any]] = []
    loop, task = started(main)
    task.result()
    assert sum(ref() is not None for ref in gone) < 20
    loop.close()


def test_shutdown_asyncgens_closes_them_at_once() -> None:
    """The method that asyncio.run calls works inside a handler too; errors are recorded."""
    log: list[str] = []

    async def fails() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            raise ValueError

    async def main() -> None:
        kept = [numbers(log), fails()]
        for generator in kept:
            assert await anext(generator) in (0, 1)
        await asyncio.get_running_loop().shutdown_asyncgens()
        log.append("main")

    loop, task = started(main)
    task.result()
    assert log == ["closing", "closed", "main"]
    assert [type(report["exception"]) for report in loop.unhandled] == [ValueError]

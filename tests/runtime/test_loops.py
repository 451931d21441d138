"""Our own asyncio loops: what they give, and that their end is bounded."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextvars import ContextVar, copy_context
from typing import Any

import pytest

from perdure.errors import PerdureError
from perdure.runtime import loops
from perdure.runtime.loops import OwnLoop, refuse_loop, start_task


def test_it_gives_what_the_coroutine_gives_and_closes() -> None:
    """A result or an exception; tasks that were left are cancelled and clean up."""
    cleaned: list[str] = []

    async def left() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0)
            cleaned.append("left")

    async def main() -> int:
        task = asyncio.create_task(left())
        await asyncio.sleep(0)
        assert await asyncio.to_thread(lambda: 5) == 5
        assert not task.done()
        return 7

    own = OwnLoop()
    assert own.run(main()) == 7
    assert own.loop.is_closed()
    assert cleaned == ["left"]

    async def failing() -> None:
        raise LookupError("x")

    with pytest.raises(LookupError):
        OwnLoop().run(failing())


def test_what_does_not_heed_its_cancellation_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A task that swallows it and a thread that hangs hold up the end for a moment only."""
    monkeypatch.setattr(loops, "GRACE_SECONDS", 0.01)
    free = threading.Event()
    swallowed: list[int] = []

    async def stubborn() -> None:
        while not free.is_set():
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                swallowed.append(1)

    async def main() -> tuple[asyncio.Task[None], asyncio.Task[bool]]:
        tasks = asyncio.create_task(stubborn()), asyncio.create_task(asyncio.to_thread(free.wait))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return tasks

    own = OwnLoop()
    task, _ = own.run(main())
    assert own.loop.is_closed()
    assert swallowed == [1]
    assert not task.done()
    assert "1 tasks do not heed" in caplog.text
    free.set()


def test_a_served_loop_ends_when_it_is_stopped() -> None:
    """Who waits for something on it is told, by its cancellation."""
    own = OwnLoop()
    thread = threading.Thread(target=own.serve)
    thread.start()

    async def answer() -> int:
        return 3

    async def never() -> None:
        await asyncio.get_running_loop().create_future()

    assert asyncio.run_coroutine_threadsafe(answer(), own.loop).result(30) == 3
    waiting = asyncio.run_coroutine_threadsafe(never(), own.loop)
    own.loop.call_soon_threadsafe(own.loop.stop)
    thread.join(30)
    assert not thread.is_alive()
    assert waiting.cancelled()
    assert own.loop.is_closed()


def test_blocking_a_running_loop_is_refused() -> None:
    """The error says what to do instead; without a loop there is none."""

    async def main() -> None:
        with pytest.raises(PerdureError, match=r"manager\.run would block .*: use this"):
            refuse_loop("run", "use this")

    asyncio.run(main())
    refuse_loop("run", "use this")


# --- tasks that begin at once -------------------------------------------------------------------

VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="outer")


def called_by_a_loop(coro: Coroutine[Any, Any, Any], *, in_task: bool = False) -> tuple[Any, bool]:
    """Start `coro` from a callback; what it returned, and whether it had ended at once."""

    async def main() -> tuple[Any, bool]:
        loop = asyncio.get_running_loop()
        started: asyncio.Future[asyncio.Task[Any]] = loop.create_future()
        at_once: list[bool] = []

        def start() -> None:
            task = start_task(loop, coro, copy_context())
            at_once.append(task.done())
            started.set_result(task)

        if in_task:
            start()
        else:
            loop.call_soon(start)
        return await (await started), at_once[0]

    return asyncio.run(main())


async def current() -> Any:
    """What a task sees of itself in its first step, and that its context is its own."""
    VARIABLE.set("inner")
    async with asyncio.timeout(60):  # noqa: ASYNC100  It needs to know its task.
        return asyncio.current_task() in asyncio.all_tasks()


async def after_a_pause() -> str:
    VARIABLE.set("inner")
    await asyncio.sleep(0)
    return VARIABLE.get()


def test_what_waits_for_nothing_ends_at_once() -> None:
    """It is a task like any other while it runs, with a context of its own."""
    assert called_by_a_loop(current()) == (True, True)
    assert VARIABLE.get() == "outer"


def test_what_waits_goes_on_with_the_loop() -> None:
    """In the same context, and the loop schedules others as ever."""
    assert called_by_a_loop(after_a_pause()) == ("inner", False)


def test_inside_a_task_it_begins_in_the_next_round() -> None:
    """Two tasks cannot be on one stack."""
    assert called_by_a_loop(current(), in_task=True) == (True, False)


def test_what_it_raises_is_the_task_s_own() -> None:
    """It is kept for whoever awaits the task, and hurts nobody else."""

    async def failing() -> None:
        raise LookupError("x")

    with pytest.raises(LookupError):
        called_by_a_loop(failing())


def test_a_task_factory_is_heeded() -> None:
    """What the user set for all tasks of the loop holds for attempts too."""
    made: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def factory(loop: Any, coro: Any, **kwargs: Any) -> Any:
            made.append(coro.__name__)
            return asyncio.Task(coro, loop=loop, **kwargs)

        loop.set_task_factory(factory)
        ended: asyncio.Future[None] = loop.create_future()

        def start() -> None:
            task = start_task(loop, current(), copy_context())
            task.add_done_callback(lambda _: ended.set_result(None))

        loop.call_soon(start)
        await ended
        loop.set_task_factory(None)

    asyncio.run(main())
    assert made == ["current"]

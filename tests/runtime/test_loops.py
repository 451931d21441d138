"""Our own asyncio loops: what they give, and that their end is bounded."""

from __future__ import annotations

import asyncio
import threading

import pytest

from perdure.errors import PerdureError
from perdure.runtime import loops
from perdure.runtime.loops import OwnLoop, refuse_loop


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

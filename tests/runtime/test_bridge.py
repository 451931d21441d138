"""Calls from other threads into a loop: in order, with one wake-up for many."""

from __future__ import annotations

import asyncio
import threading

from perdure.runtime.bridge import Bridge


def test_calls_run_in_order_on_the_loop() -> None:
    """What a thread hands over runs on the loop's thread, in the order given."""

    async def main() -> list[int]:
        bridge = Bridge(asyncio.get_running_loop())
        seen: list[int] = []
        done = asyncio.get_running_loop().create_future()

        def call_all() -> None:
            for n in range(100):
                bridge.call(seen.append, n)
            bridge.call(done.set_result, None)

        threading.Thread(target=call_all).start()
        await done
        return seen

    assert asyncio.run(main()) == [*range(100)]


def test_a_call_may_make_calls() -> None:
    """A callback that calls the bridge again is heard, on the loop's own thread at once."""

    async def main() -> str:
        bridge = Bridge(asyncio.get_running_loop())
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        bridge.call(bridge.call, future.set_result, "heard")
        return await future

    assert asyncio.run(main()) == "heard"


def test_a_call_that_raises_does_not_lose_the_next() -> None:
    """The loop reports the error; those behind it in the queue are still run."""

    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        faults: list[str] = []
        loop.set_exception_handler(lambda _, context: faults.append(str(context["exception"])))
        bridge, future = Bridge(loop), loop.create_future()

        def fail() -> None:
            raise ValueError("broken")

        def call_both() -> None:
            bridge.call(fail)
            bridge.call(future.set_result, None)

        thread = threading.Thread(target=call_both)
        thread.start()
        thread.join()  # blocks the loop: both calls are in one wake-up
        await asyncio.wait_for(future, 10)
        return faults

    assert asyncio.run(main()) == ["broken"]


def test_a_closed_loop_is_no_error() -> None:
    """Whoever waited on a loop that is closed is gone: nothing is run, nothing raised."""
    loop = asyncio.new_event_loop()
    bridge = Bridge(loop)
    loop.close()
    seen: list[int] = []

    def call_both() -> None:
        bridge.call(seen.append, 1)
        bridge.call(seen.append, 2)

    thread = threading.Thread(target=call_both)
    thread.start()
    thread.join()
    assert seen == []
    assert not bridge._calls

"""Actions in a world: their virtual time, their stubs, their faults, and their cancellation."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.sim.acting import (
    Seen,
    acting,
    both,
    calls,
    d,
    failure,
    hang,
    plain,
    play,
    put,
    quitting,
    total,
    value,
)

from perdure.core.outcomes import Canceled, Succeeded
from perdure.runtime.contexts import ActionContext
from perdure_sim.world.actions import CallMade, DressedRegistry, Stub
from perdure_sim.world.clock import START_MS
from perdure_sim.world.disks import sqlite_disk
from perdure_sim.world.world import World

# --- virtual time ---------------------------------------------------------------------------------


def test_an_action_waits_in_virtual_time(tmp_path: Path) -> None:
    """Sleeps, gathers and time-outs take the time they say, to the millisecond, and no other."""

    async def act(ctx: ActionContext, n: int, text: str) -> list[float]:
        loop = asyncio.get_running_loop()
        times = [loop.time()]
        await asyncio.sleep(1.5)
        times.append(loop.time())
        await asyncio.gather(*(asyncio.sleep(seconds) for seconds in (1, 3, 2)))
        times.append(loop.time())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.25):
                await asyncio.sleep(86_400)
        times.append(loop.time())
        await asyncio.sleep(86_400)
        return [*times, loop.time()]

    world = play(tmp_path, acting(), act)
    assert value(world) == [0.02, 1.52, 4.52, 4.77, 86_404.77]


def test_tasks_of_an_action_take_turns(tmp_path: Path) -> None:
    """A queue and a group of tasks work as on any loop; what is due first, or was asked for first,
    comes first, with all that follows from it."""
    seen = Seen()

    async def feed(queue: asyncio.Queue[str]) -> None:
        for text in ("a", "b"):
            await asyncio.sleep(1)
            await queue.put(text)

    async def nap(name: str) -> None:
        await asyncio.sleep(1)
        seen(name)

    async def act(ctx: ActionContext, n: int, text: str) -> str:
        queue: asyncio.Queue[str] = asyncio.Queue()
        async with asyncio.TaskGroup() as group:
            for coro in (nap("first"), feed(queue), nap("second")):
                group.create_task(coro)
            seen(await queue.get())
            seen(await queue.get())
        return "done"

    assert value(play(tmp_path, acting(), act)) == "done"
    assert seen.list == [("first", 1_020), ("a", 1_020), ("second", 1_020), ("b", 2_020)]


def test_actions_of_one_process_share_its_loop_and_run_at_once(tmp_path: Path) -> None:
    """Each waits by itself; a plain `def` runs in the same thread, in between."""
    world = play(tmp_path, both())
    assert value(world) == [["own code", 7, "t"], 8]
    key = world.calls[0].idempotency_key.removeprefix("x/0@")
    assert world.calls == [
        CallMade(
            action=action,
            workflow_id="x",
            step_number=number,
            attempt=1,
            idempotency_key=f"x/{number}@{key}",
            process="w0",
            at=START_MS + 20,
            arguments=arguments,
            epoch=world.calls[0].epoch,
            keywords=("n", "text")[: len(arguments)],
        )
        for number, (action, arguments) in enumerate([("act", (7, "t")), ("plain", (4,))])
    ]


# --- stubs ----------------------------------------------------------------------------------------


def test_a_stub_takes_its_time_and_gives_its_value(tmp_path: Path) -> None:
    """Its function gets what the action gets, at the end of that time; it may be a plain one."""
    seen = Seen()

    def act(ctx: ActionContext, n: int, text: str) -> list[Any]:
        seen("called")
        return [ctx.workflow_id, ctx.step_number, ctx.attempt, n, text]

    world = play(tmp_path, acting(), Stub(fn=act, takes_ms=250))
    assert (value(world), seen.list) == (["x", 0, 1, 1, ""], [("called", 270)])
    assert calls(world) == [(1, "w0", 20)]


def test_a_stub_without_a_function_is_the_actions_own_code(tmp_path: Path) -> None:
    """Only it takes longer: a second, and then the half that the code waits itself."""
    world = play(tmp_path, acting(), Stub(takes_ms=1_000))
    assert value(world) == ["own code", 1, ""]
    ended = world.history.workflows["x"].steps[0].settled_at
    assert ended == START_MS + 1_520


def test_what_a_stub_raises_fails_the_attempt(tmp_path: Path) -> None:
    """As what the action's own code raises."""

    def act(ctx: ActionContext, n: int, text: str) -> None:
        raise OSError("down")

    world = play(tmp_path, acting(attempts=2), act)
    assert failure(world) == ("OSError", "down")
    assert calls(world) == [(1, "w0", 20), (2, "w0", 1_020)]


# --- faults ---------------------------------------------------------------------------------------


def test_an_attempt_that_raises_is_tried_again(tmp_path: Path) -> None:
    """Where the plan says so it raises, after the time of its stub; the next one goes well."""
    stub = Stub(takes_ms=100)
    world = play(tmp_path, acting(attempts=2), stub, plan="pd1:act/attempt#1=raises")
    assert (value(world), calls(world)) == (
        ["own code", 1, ""],
        [(1, "w0", 20), (2, "w0", 1_120)],
    )


def test_an_attempt_that_always_raises_fails(tmp_path: Path) -> None:
    """With the plan's own words for it."""
    world = play(tmp_path, acting(attempts=2), plan="pd1:act/attempt#1=raises*3")
    assert failure(world) == ("SimulatedFailure", "act/attempt#1=raises*3")
    assert len(world.calls) == 2


def test_an_attempt_that_raises_for_good_is_the_last(tmp_path: Path) -> None:
    """Whatever the policy says."""
    world = play(tmp_path, acting(attempts=5), plan="pd1:act/attempt#1=raises_for_good")
    assert failure(world)[0] == "NonRetryableError"
    assert calls(world) == [(1, "w0", 20)]


def test_a_slow_attempt_ends_later(tmp_path: Path) -> None:
    """Before its code begins it takes the time of the fault."""
    seen = Seen()
    world = play(
        tmp_path, acting(), lambda ctx, n, text: seen("called"), plan="pd1:act/attempt#1=slow:90s"
    )
    assert (value(world), seen.list, calls(world)) == (
        None,
        [("called", 90_020)],
        [(1, "w0", 20)],
    )


def test_a_slow_attempt_is_cancelled_by_its_timeout(tmp_path: Path) -> None:
    """Its code never begins; the next attempt, after the backoff, is as fast as ever."""
    seen = Seen()
    world = play(
        tmp_path,
        acting(attempts=2, timeout=1),
        lambda ctx, n, text: seen(f"called {ctx.attempt}"),
        plan="pd1:act/attempt#1=slow:90s",
    )
    assert world.history.workflows["x"].state.outcome == Succeeded("null")
    assert (calls(world), seen.list) == (
        [(1, "w0", 20), (2, "w0", 2_020)],
        [("called 2", 2_020)],
    )


def test_a_deaf_attempt_keeps_its_permit_until_it_ends(tmp_path: Path) -> None:
    """It hears no cancellation: its code runs all the same, and nobody waits for what it gives."""
    seen = Seen()

    def act(ctx: ActionContext, n: int, text: str) -> int:
        seen(f"called {ctx.attempt}")
        return ctx.attempt

    world = play(
        tmp_path,
        acting(attempts=2, timeout=1),
        act,
        plan="pd1:act/attempt#1=deaf:10s",
        max_parallelism=1,
    )
    assert value(world) == 2
    assert seen.list == [("called 1", 10_020), ("called 2", 10_020)]
    assert calls(world) == [(1, "w0", 20), (2, "w0", 10_020)]


def test_a_fault_befalls_the_attempt_that_it_names(tmp_path: Path) -> None:
    """Occurrences are counted over all attempts of an action, whatever workflow they are of."""
    world = play(
        tmp_path,
        acting(attempts=2),
        plan="pd1:act/attempt#2=raises",
        script=lambda world: world.start(acting(attempts=2), id="y"),
    )
    assert [(call.workflow_id, call.attempt) for call in world.calls] == [
        ("x", 1),
        ("y", 1),
        ("y", 2),
    ]
    assert value(world) == value(world, "y") == ["own code", 1, ""]


# --- cancellation ---------------------------------------------------------------------------------


def test_a_timeout_of_an_attempt_arrives_as_a_cancellation(tmp_path: Path) -> None:
    """At its time, in each attempt, whose code may clean up; the step has failed before that."""
    seen = Seen()
    world = play(tmp_path, acting(attempts=2, timeout=1), lambda *_, **__: hang(seen))
    assert failure(world) == ("TimeoutError", "attempt 2 took longer than 1000 ms")
    assert seen.list == [
        ("cancelled", 1_020),
        ("cleaned up", 1_270),
        ("cancelled", 3_020),
        ("cleaned up", 3_270),
    ]


def test_a_handler_that_gives_up_cancels_the_attempt(tmp_path: Path) -> None:
    """After the commit that records it, at the same virtual time."""
    seen = Seen()
    world = play(tmp_path, quitting(), lambda *_, **__: hang(seen))
    assert value(world) == "too slow"
    assert seen.list == [("cancelled", 2_020), ("cleaned up", 2_270)]


def test_a_canceled_workflow_cancels_its_attempts(tmp_path: Path) -> None:
    """The client's cancel is committed elsewhere: the worker finds it when it polls."""
    seen = Seen()
    world = play(
        tmp_path,
        acting(),
        lambda *_, **__: hang(seen),
        script=lambda world: world.after(3_000, lambda: world.cancel("x")),
    )
    assert world.history.workflows["x"].state.outcome == Canceled()
    assert seen.list == [("cancelled", 3_020), ("cleaned up", 3_270)]


# --- the registry ---------------------------------------------------------------------------------


def test_a_dressed_registry_changes_actions_only(tmp_path: Path) -> None:
    """An action keeps its name and codecs, runs on the loop, and is dressed once."""
    world = World(d, sqlite_disk(tmp_path / "a.db"), workers=1)
    dressed = DressedRegistry(d.registry, world.workers[0], {})
    found = dressed.get("plain")
    assert found is dressed.get("plain")
    assert (found is plain, getattr(found, "is_async", None)) == (False, True)
    assert found is not None
    assert (found.name, found.arguments, found.result) == ("plain", plain.arguments, plain.result)
    assert [dressed.get(name) for name in ("put", "total", "acting")] == [put, total, acting]
    assert dressed.get("nobody") is None
    world.close()

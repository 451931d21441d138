"""Actions in a world: what they may reach, what they tell, and how they die with their process."""

from __future__ import annotations

import asyncio
import gc
import socket
import subprocess
import sys
import threading
import time  # noqa: TID251  To be refused.
import urllib.request
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.sim.acting import (
    Seen,
    acting,
    calls,
    d,
    failure,
    hang,
    other,
    planning,
    play,
    put,
    told,
    total,
    value,
    waiting,
)

from perdure.core.outcomes import Canceled
from perdure.errors import WorkflowNotFound
from perdure.runtime.contexts import ActionContext
from perdure_sim.world.actions import Stub
from perdure_sim.world.clock import START_MS
from perdure_sim.world.disks import memory_disk
from perdure_sim.world.outside import NotSimulated
from perdure_sim.world.world import World

# --- what it may not reach ------------------------------------------------------------------------


async def _executor() -> None:
    await asyncio.get_running_loop().run_in_executor(None, print)


@pytest.mark.parametrize(
    ("reach", "refused"),
    [
        (lambda: asyncio.to_thread(print), "run_in_executor"),
        (_executor, "run_in_executor"),
        (lambda: asyncio.open_connection("localhost", 1), "create_connection"),
        (lambda: asyncio.start_server(print, "localhost", 0), "create_server"),
        (lambda: asyncio.create_subprocess_exec("true"), "subprocess_exec"),
    ],
)
def test_an_action_that_reaches_outside_is_told_so(
    tmp_path: Path, reach: Callable[[], Awaitable[Any]], refused: str
) -> None:
    """Threads, sockets and processes would take real time: it raises there, and ends the run."""

    async def act(ctx: ActionContext, n: int, text: str) -> None:
        with suppress(Exception):
            await reach()

    with pytest.raises(NotSimulated) as caught:
        play(tmp_path, acting(), act)
    assert str(caught.value).startswith(f"loop.{refused}(…) in action 'act', in a simulation:")
    assert str(caught.value).endswith("stub the action, as in sim.stub(act, returns=…)")


@pytest.mark.parametrize(
    ("reach", "refused"),
    [
        (lambda: threading.Thread(target=print).start(), "threading.Thread.start"),
        (lambda: time.sleep(5), "time.sleep"),
        (time.time, "time.time"),
        (lambda: datetime.now(UTC), "datetime.now"),  # noqa: TID251
        (date.today, "date.today"),  # noqa: TID251
        (socket.socket, "socket.socket"),
        (lambda: socket.getaddrinfo("localhost", 1), "socket.getaddrinfo"),
        (lambda: subprocess.run(["true"], check=True), "subprocess.Popen"),
        (lambda: urllib.request.urlopen("http://localhost:1"), "urllib.request.urlopen"),
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
def test_blocking_code_that_reaches_outside_is_told_so(
    tmp_path: Path, reach: Callable[[], object], refused: str, is_async: bool
) -> None:
    """Clocks, sleeps, threads, sockets and processes, in actions of both kinds."""

    def act(ctx: ActionContext, *_: object, **__: object) -> None:
        reach()

    stubs = {"act": Stub(fn=act), "plain": Stub(fn=act)}
    world = World(d, memory_disk(), workers=1, stubs=stubs)
    with closing(world):
        world.start(acting() if is_async else planning(), id="x")
        with pytest.raises(NotSimulated) as caught:
            world.settle()
    assert str(caught.value).startswith(f"{refused}(")
    assert f"in action {'act' if is_async else 'plain'!r}" in str(caught.value)


async def _after_a_sleep() -> None:
    await asyncio.sleep(1)
    time.time()


async def _in_a_task() -> None:
    async def look() -> None:
        await asyncio.sleep(0)
        time.time()

    await asyncio.gather(asyncio.sleep(2), asyncio.create_task(look()))


async def _in_a_callback() -> None:
    asyncio.get_running_loop().call_soon(time.time)
    await asyncio.sleep(1)


async def _in_a_timer() -> None:
    asyncio.get_running_loop().call_later(1, time.time)
    await asyncio.sleep(2)


async def _when_it_is_cancelled() -> None:
    async def look() -> None:
        try:
            await asyncio.sleep(9)
        finally:
            time.time()

    with suppress(TimeoutError):
        await asyncio.wait_for(look(), 1)


@pytest.mark.parametrize(
    "reach", [_after_a_sleep, _in_a_task, _in_a_callback, _in_a_timer, _when_it_is_cancelled]
)
@pytest.mark.parametrize("takes_ms", [0, 30])
def test_all_code_of_an_action_is_looked_at(
    reach: Callable[[], Awaitable[None]], takes_ms: int
) -> None:
    """Whatever it has run by the loop, and whenever; and nothing is looked at afterwards."""

    async def act(ctx: ActionContext, n: int, text: str) -> None:
        with suppress(Exception):
            await reach()

    stubs = {"act": Stub(fn=act, takes_ms=takes_ms)}
    with closing(World(d, memory_disk(), workers=1, stubs=stubs)) as world:
        world.start(acting(), id="x")
        with pytest.raises(NotSimulated, match=r"time\.time"):
            world.settle()
    assert sys.getprofile() is None


def test_only_an_actions_own_code_is_looked_at() -> None:
    """To look costs a call for each call, so the engine's code beside it runs unseen."""
    seen: list[Any] = []

    async def act(ctx: ActionContext, n: int, text: str) -> str:
        seen.append(sys.getprofile())
        await asyncio.sleep(1)
        seen.append(sys.getprofile())
        return text

    stubs = {"act": Stub(fn=act, takes_ms=30)}
    with closing(World(d, memory_disk(), workers=1, stubs=stubs)) as world:
        world.start(acting(), id="x")
        world.after(0, lambda: seen.append(sys.getprofile()))
        world.settle()
        assert world.history.workflows["x"].state.status == "success"
    assert [each is None for each in seen] == [True, False, False]


def test_an_action_may_log_and_write_files(tmp_path: Path) -> None:
    """A log record reads the clock for itself; that is no business of the simulation."""

    def act(ctx: ActionContext, n: int, text: str) -> str:
        ctx.logger.warning("a line")
        (tmp_path / "out").write_text("written")
        return (tmp_path / "out").read_text()

    assert value(play(tmp_path, acting(), act)) == "written"


def test_a_plain_action_sees_no_running_loop(tmp_path: Path) -> None:
    """As in production, where it runs in a thread; and it takes no time."""

    def no_loop(ctx: ActionContext, n: int) -> int:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        return 7

    world = World(d, memory_disk(), workers=1, stubs={"plain": Stub(fn=no_loop)})
    with closing(world):
        world.start(planning(), id="x")
        world.settle()
    assert value(world) == 7


# --- the manager's verbs --------------------------------------------------------------------------


def test_an_action_may_start_a_workflow(tmp_path: Path) -> None:
    """It gets the id, and the workflow runs; with an id of its own it is started but once."""

    async def act(ctx: ActionContext, n: int, text: str) -> list[str]:
        first = await ctx.start(other(5), id="mine")
        again = await ctx.start(other(5), id="mine")
        return [first, again, await ctx.start(other(6), run_after=60)]

    world = play(tmp_path, acting(), act)
    ids = value(world)
    assert ids[:2] == ["mine", "mine"]
    assert list(world.history.workflows) == ["x", "mine", ids[2]]
    assert [value(world, "mine"), value(world, ids[2])] == [5, 6]
    started = world.history.workflows[ids[2]].state.started_at
    assert started is not None
    assert (started - START_MS) // 1000 == 60


def test_an_action_may_send_an_event(tmp_path: Path) -> None:
    """Also to its own workflow, which gets it when the action has ended."""

    async def act(ctx: ActionContext, n: int, text: str) -> str:
        return await ctx.send_event("news", workflow_id=ctx.workflow_id, value=[1, None])

    world = play(tmp_path, told(), act)
    event_id, payload = value(world)
    assert payload == [1, None]
    assert world.history.workflows["x"].consumed == {event_id: 1}


def test_an_action_may_cancel_a_workflow(tmp_path: Path) -> None:
    """Another one, which ends; one that is not there is an error of the call."""

    async def act(ctx: ActionContext, n: int, text: str) -> str:
        await ctx.cancel("y")
        with pytest.raises(WorkflowNotFound, match="nobody"):
            await ctx.cancel("nobody")
        return "done"

    world = play(tmp_path, acting(), act, script=lambda world: world.start(waiting(), id="y"))
    assert value(world) == "done"
    assert world.history.workflows["y"].state.outcome == Canceled()


def test_an_action_that_cancels_its_own_workflow_is_cancelled(tmp_path: Path) -> None:
    """Its call is answered, and at the next wait it is told, once: it may clean up."""
    seen = Seen()

    async def act(ctx: ActionContext, n: int, text: str) -> None:
        await ctx.cancel(ctx.workflow_id)
        seen("answered")
        await hang(seen)

    world = play(tmp_path, acting(), act)
    assert world.history.workflows["x"].state.outcome == Canceled()
    assert seen.list == [("answered", 20), ("cancelled", 20), ("cleaned up", 270)]


def test_an_action_may_run_queries_and_mutations(tmp_path: Path) -> None:
    """It gets what they return, and what they wrote stays."""

    async def act(ctx: ActionContext, n: int, text: str) -> list[Any]:
        written = [await ctx.run_mutation(put(3)), await ctx.run_mutation(put(4))]
        return [*written, await ctx.run_query(total())]

    assert value(play(tmp_path, acting(), act)) == [[3], [4], 7]


def test_a_verb_takes_functions_of_its_kind(tmp_path: Path) -> None:
    """As the manager's: a mutation is no query, and nothing is written."""

    async def act(ctx: ActionContext, n: int, text: str) -> None:
        await ctx.run_query(put(3))  # type: ignore[arg-type]

    world = play(tmp_path, acting(), act)
    assert failure(world)[0] == "TypeError"


def test_what_a_mutation_raises_is_raised_in_the_action(tmp_path: Path) -> None:
    """The very exception; what it wrote is undone, and what another one wrote is not."""

    async def act(ctx: ActionContext, n: int, text: str) -> list[Any]:
        await ctx.run_mutation(put(3))
        with pytest.raises(ValueError, match="-1 is below zero"):
            await ctx.run_mutation(put(-1))
        return [await ctx.run_query(total())]

    (found,) = value(play(tmp_path, acting(), act))
    assert str(found) == "3"


@pytest.mark.parametrize("commit", range(4, 8))
def test_a_verb_is_carried_out_once_though_its_process_dies(tmp_path: Path, commit: int) -> None:
    """Whichever commit the process dies after: the next attempt asks again, under the same id."""

    async def act(ctx: ActionContext, n: int, text: str) -> str:
        return await ctx.start(other(5), id="mine")

    plan = f"pd1:w0/commit#{commit}=crash_after"
    world = play(tmp_path, acting(attempts=2), act, plan=plan, workers=2)
    assert (value(world), value(world, "mine")) == ("mine", 5)


# --- attempts, and crashes ------------------------------------------------------------------------


def test_every_attempt_is_told(tmp_path: Path) -> None:
    """The list of calls has each recorded attempt of each step, under the key of its step."""

    def act(ctx: ActionContext, n: int, text: str) -> int:
        if ctx.attempt < 3:
            raise OSError("down")
        return ctx.attempt

    world = play(
        tmp_path,
        acting(attempts=3),
        act,
        workers=2,
        script=lambda world: world.start(acting(attempts=4), id="y"),
    )
    assert (value(world), value(world, "y")) == (3, 3)
    told = [(call.workflow_id, call.attempt) for call in world.calls]
    assert sorted(told) == [(name, n) for name in "xy" for n in (1, 2, 3)]
    recorded = {name: known.steps[0].attempt for name, known in world.history.workflows.items()}
    assert recorded == {"x": 3, "y": 3}
    assert len({(call.workflow_id, call.idempotency_key) for call in world.calls}) == 2


@pytest.mark.parametrize(
    ("workers", "then"), [(1, (2, "w0", 2_000)), (2, (2, "w1", 1_620))], ids=["alone", "two"]
)
def test_an_attempt_dies_with_its_process(
    tmp_path: Path, workers: int, then: tuple[int, str, int]
) -> None:
    """It never reports. The next one runs after the restart, or elsewhere, once that is noticed;
    in both cases after the backoff."""
    seen = Seen()

    async def act(ctx: ActionContext, n: int, text: str) -> str:
        seen(f"begins {ctx.attempt}")
        await asyncio.gather(asyncio.sleep(2), asyncio.sleep(3))
        seen(f"ends {ctx.attempt}")
        return f"of {ctx.attempt}"

    def script(world: World) -> None:
        world.after(500, world.workers[0].crash)

    world = play(tmp_path, acting(attempts=2), act, workers=workers, script=script)
    assert (value(world), calls(world)) == ("of 2", [(1, "w0", 20), then])
    assert seen.list == [("begins 1", 20), ("begins 2", then[2]), ("ends 2", then[2] + 3_000)]


def test_an_attempt_that_may_not_be_repeated_is_lost_with_its_process(tmp_path: Path) -> None:
    """At most once: the step fails, and its code does not begin again."""

    def script(world: World) -> None:
        world.after(500, world.workers[0].crash)

    world = play(tmp_path, acting(), Stub(takes_ms=2_000), workers=2, script=script)
    assert failure(world)[0] == "WorkerLost"
    assert calls(world) == [(1, "w0", 20)]


@pytest.mark.parametrize("border", ["committed", "told", "carried_out"])
def test_an_attempt_that_never_began_is_not_told(tmp_path: Path, border: str) -> None:
    """The process dies in the turn that records the start, after the commit: it counts as lost."""
    turn = play(tmp_path, acting()).faults.census["w0", border] - 1
    (tmp_path / "again").mkdir()
    plan = f"pd1:w0/{border}#{turn}=crash"
    world = play(tmp_path / "again", acting(attempts=2), plan=plan)
    assert [attempt for attempt, _, _ in calls(world)] == [2]
    assert world.history.workflows["x"].steps[0].attempt == 2


def test_nothing_of_a_dead_process_reaches_the_next_one(tmp_path: Path) -> None:
    """When Python collects what a crash has left is not part of a run."""

    def census(collect: Callable[[], object], path: Path) -> dict[tuple[str, str], int]:
        def script(world: World) -> None:
            world.after(500, world.workers[0].crash)
            world.after(1_200, collect)

        path.mkdir()
        world = play(path, acting(attempts=2), Stub(takes_ms=2_000), script=script)
        return dict(world.faults.census)

    gc.disable()
    try:
        first = census(lambda: None, tmp_path / "first")
        second = census(gc.collect, tmp_path / "second")
    finally:
        gc.enable()
    assert first == second

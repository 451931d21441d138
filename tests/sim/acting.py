"""Definitions, and a world to play them in, for the tests of simulated actions.

What the action `act` does is given as its stub, so that each test shows its code.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from perdure.core.outcomes import Failed, Succeeded
from perdure.core.retry import RetryPolicy
from perdure.definitions import Call, Definer
from perdure.runtime.contexts import ActionContext, MutationContext, QueryContext
from perdure.step import Step
from perdure_sim.faults.plan import FaultPlan
from perdure_sim.laws.replaying import check_replay
from perdure_sim.world.actions import Stub
from perdure_sim.world.clock import START_MS
from perdure_sim.world.disks import sqlite_disk
from perdure_sim.world.world import World

d = Definer()


@d.action
async def act(ctx: ActionContext, n: int = 1, *, text: str = "") -> Any:
    await asyncio.sleep(0.5)
    return ["own code", n, text]


@d.action
def plain(ctx: ActionContext, n: int) -> int:
    assert threading.current_thread() is threading.main_thread()
    return 2 * n


@d.mutation
def put(ctx: MutationContext, n: int) -> list[int]:
    ctx.db.execute("CREATE TABLE IF NOT EXISTS numbers (n INTEGER)")
    ctx.db.execute("INSERT INTO numbers VALUES (?)", (n,))
    if n < 0:
        raise ValueError(f"{n} is below zero")
    return [n]


@d.query
def total(ctx: QueryContext) -> int:
    (found,) = ctx.db.execute("SELECT sum(n) FROM numbers").fetchone()
    return int(found)


@d.workflow
async def acting(step: Step, attempts: int = 1, timeout: float | None = None) -> Any:
    policy = RetryPolicy(max_attempts=attempts, initial_backoff=1, jitter=False)
    return await step.run_action(act(), retry=policy, timeout=timeout)


@d.workflow
async def quitting(step: Step) -> str:
    try:
        async with asyncio.timeout(2):
            await step.run_action(act())
    except TimeoutError:
        return "too slow"
    return "in time"


@d.workflow
async def both(step: Step) -> Any:
    return await asyncio.gather(step.run_action(act(7, text="t")), step.run_action(plain(4)))


@d.workflow
async def planning(step: Step) -> int:
    return await step.run_action(plain(4))


@d.workflow
async def told(step: Step) -> Any:
    event_id = await step.run_action(act())
    return [event_id, await step.await_event("news")]


@d.workflow
async def waiting(step: Step) -> Any:
    return await step.await_event("never")


@d.workflow
async def other(step: Step, n: int) -> int:
    return n


class Seen:
    """What the code of an action did, and when, in ms from the begin of the world."""

    def __init__(self) -> None:
        self.list: list[tuple[str, int]] = []

    def __call__(self, what: str) -> None:
        self.list.append((what, round(asyncio.get_running_loop().time() * 1000)))


def play(
    path: Path,
    call: Call[Any],
    act: Callable[..., Any] | Stub | None = None,
    *,
    plan: str = "",
    workers: int = 1,
    script: Callable[[World], object] = lambda world: None,
    max_parallelism: int | None = None,
) -> World:
    """A world in which the workflow "x" is played to its end, with all laws on."""
    stubs = {}
    if act is not None:
        stubs["act"] = act if isinstance(act, Stub) else Stub(fn=act)
    world = World(
        d,
        sqlite_disk(path / "a.db"),
        FaultPlan.parse(plan),
        workers=workers,
        stubs=stubs,
        max_parallelism=max_parallelism,
    )
    with closing(world):
        world.start(call, id="x")
        script(world)
        world.settle()
        assert [str(fault) for fault in world.faults.fired] == [
            str(fault) for fault in FaultPlan.parse(plan)
        ]
        store = world.open_disk()
        store.open(max_parallelism=None)
        for each in world.history.check_store(store):
            check_replay(world.rules, each)
        store.close()
    return world


def value(world: World, workflow_id: str = "x") -> Any:
    """What a workflow returned."""
    outcome = world.history.workflows[workflow_id].state.outcome
    assert isinstance(outcome, Succeeded), outcome
    return json.loads(outcome.value)


def failure(world: World) -> tuple[str, str]:
    """Type and message of the error of the first step."""
    outcome = world.history.workflows["x"].steps[0].outcome
    assert isinstance(outcome, Failed), outcome
    return outcome.error.type, outcome.error.message


def calls(world: World) -> list[tuple[int, str, int]]:
    """Attempts as (number, process, ms from the begin)."""
    return [(call.attempt, call.process, call.at - START_MS) for call in world.calls]


async def hang(seen: Seen) -> str:
    try:
        await asyncio.sleep(100)
    except asyncio.CancelledError:
        seen("cancelled")
        await asyncio.sleep(0.25)
        seen("cleaned up")
        raise
    return "never"

"""Scenarios of what a workflow does at once: trees of children, and asyncio's tools.

Nothing is asserted here but what a scenario's own `check` says of its ledger and its outcomes.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncGenerator
from typing import Any

from tests.sim.portable import execute

from perdure.core.outcomes import Canceled, Succeeded
from perdure.core.retry import RetryPolicy
from perdure.definitions import Definer
from perdure.errors import StepCanceled, StepFailed
from perdure.records import Outcome as End
from perdure.runtime.contexts import ActionContext, MutationContext
from perdure.step import Step
from perdure_sim.explore.explorer import Scenario
from perdure_sim.world.actions import Stub
from perdure_sim.world.world import World

f = Definer()

#: Attempts follow each other at once, so that a scenario takes few events.
SOON = RetryPolicy(max_attempts=20, initial_backoff=0.1, max_backoff=0.1, jitter=False)


def make_ledger(db: sqlite3.Connection) -> None:
    """A table in which each effect of a mutation leaves a row."""
    db.execute("CREATE TABLE ledger (entry TEXT NOT NULL UNIQUE)")


def entries(world: World) -> list[str]:
    """What is in the ledger, sorted."""
    return [entry for (entry,) in execute(world.db, "SELECT entry FROM ledger ORDER BY entry")]


@f.action(retry=SOON)
async def work(ctx: ActionContext, n: int) -> int:
    return n


@f.mutation
def enter(ctx: MutationContext, entry: str) -> str:
    execute(ctx.db, "INSERT INTO ledger VALUES (?)", (entry,))
    return entry


@f.mutation
def over(ctx: MutationContext, workflow_id: str, outcome: End) -> None:
    execute(ctx.db, "INSERT INTO ledger VALUES (?)", (f"{workflow_id} {outcome.kind}",))


# --- a family of four levels ----------------------------------------------------------------------


@f.workflow
async def deep(step: Step, levels: int, last: str) -> Any:
    """As many levels below as are told; at the bottom a deed."""
    if levels:
        return [levels, await step.run_workflow(deep(levels - 1, last))]
    await step.run_mutation(enter(f"{step.workflow_id} {last}"))
    if last == "fail":
        raise ValueError("at the bottom")
    if last == "wait":
        await step.await_event("never")
    return await step.run_action(work(1))


@f.workflow
async def family(step: Step) -> list[Any]:
    asked = step.now()
    good = step.run_workflow(deep(3, "end"))
    bad = step.run_workflow(deep(2, "fail"), name="the bad one")
    later = step.run_workflow(deep(0, "later"), run_after=20, workflow_id="late")
    given_up = step.run_workflow(deep(2, "wait"), workflow_id="given up")
    twin = step.run_workflow(deep(0, "never"), workflow_id="late")
    step.run_workflow(deep(0, "never"), workflow_id="late").cancel()
    told: list[Any] = [await good]
    for future in (bad, twin):
        try:
            await future
        except StepFailed as error:
            told.append(error.error.type.rpartition(".")[2])
    await step.sleep(5)
    given_up.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await given_up
    told.append(await later)
    told.append((step.now() - asked).total_seconds() >= 20)
    step.run_workflow(deep(1, "wait"), workflow_id="left behind")
    await step.sleep(1)
    return told


@f.workflow
async def orphaned(step: Step) -> str:
    """Its child is cancelled from outside."""
    try:
        await step.run_workflow(deep(2, "wait"), workflow_id="victim")
    except StepCanceled:
        return "told"
    return "not told"


def families(world: World) -> None:
    """One that does all by itself, one whose child is cancelled, and one that is cancelled whole,
    long after all of them wait."""
    world.start(family(), id="f", on_complete=over)
    orphan = world.start(orphaned(), id="o", on_complete=over)
    felled = world.start(deep(3, "wait"), id="felled", on_complete=over)
    world.after(1_000_000, lambda: world.cancel("victim"), orphan)
    world.after(1_000_000, lambda: world.cancel("felled"), felled)


def check_families(world: World) -> None:
    """Each level did what it should, and nothing of any tree is left."""
    outcomes = {w: known.state.outcome for w, known in world.history.workflows.items()}
    value = '[[3,[2,[1,1]]],"StepFailed","WorkflowIdConflict",1,true]'
    assert outcomes["f"] == Succeeded(value), outcomes["f"]
    assert outcomes["o"] == Succeeded('"told"'), outcomes["o"]
    left = [w for w, outcome in outcomes.items() if outcome is None]
    assert left == [], f"{left} are left"
    felled = [w for w in outcomes if w.startswith(("felled", "victim", "given up", "left behind"))]
    assert {type(outcomes[w]) for w in felled} == {Canceled}
    assert not any(entry.endswith("never") for entry in entries(world))
    names = {known.state.header.name for known in world.history.workflows.values()}
    assert names == {"family", "orphaned", "deep"}


FAMILIES = Scenario(
    name="families",
    definer=f,
    script=families,
    setup=make_ledger,
    check=check_families,
)

# --- tasks that meet ------------------------------------------------------------------------------


@f.workflow
async def meeting(step: Step) -> list[Any]:
    """Semaphore, lock, barrier, event, queue, condition, group, stream and shield in one."""
    semaphore, lock, barrier = asyncio.Semaphore(2), asyncio.Lock(), asyncio.Barrier(3)
    ready, condition = asyncio.Event(), asyncio.Condition()
    queue: asyncio.Queue[int] = asyncio.Queue(1)
    inside = most = 0
    met: list[int] = []

    async def member(number: int) -> None:
        nonlocal inside, most
        await ready.wait()
        async with semaphore:
            inside += 1
            most = max(most, inside)
            value = await step.run_action(work(number))
            inside -= 1
        async with lock:
            await step.run_mutation(enter(f"member {value}"))
            await queue.put(value)
        await barrier.wait()
        async with condition:
            met.append(value)
            condition.notify_all()

    async def stream() -> AsyncGenerator[int, None]:
        for n in range(10, 13):
            yield await step.run_action(work(n))

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(member(number))
        await step.sleep(0.05)
        ready.set()
        values = [await queue.get() for _ in range(3)]
        async with condition:
            await condition.wait_for(lambda: len(met) == 3)
    streamed = [value async for value in stream()]
    kept = asyncio.ensure_future(step.run_action(work(7)))
    try:
        async with asyncio.timeout(0.001):
            await asyncio.shield(kept)
    except TimeoutError:
        pass
    several = [step.run_action(work(n)) for n in (20, 21)]
    came = sorted([await each for each in asyncio.as_completed(several)])
    return [sorted(values), most, streamed, await kept, came, await _failing(step)]


async def _failing(step: Step) -> str:
    async def fail() -> None:
        await step.run_action(work(30))
        raise ValueError("no")

    async def wait() -> None:
        try:
            await step.await_event("never")
        finally:
            await step.run_mutation(enter("cleaned up"))

    told = "nothing failed"
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(wait())
            group.create_task(fail())
    except* ValueError as errors:
        told = str(errors.exceptions[0])
    return told


def a_meeting(world: World) -> None:
    """One workflow."""
    world.start(meeting(), id="m", on_complete=over)


def check_meeting(world: World) -> None:
    """It ends as it would anywhere else."""
    outcome = world.history.workflows["m"].state.outcome
    value = '[[0,1,2],2,[10,11,12],7,[20,21],"no"]'
    assert outcome == Succeeded(value), outcome
    assert entries(world) == ["cleaned up", "m success", *(f"member {n}" for n in range(3))]


MEETING = Scenario(
    name="meeting",
    definer=f,
    script=a_meeting,
    stubs={"work": Stub(takes_ms=40)},
    setup=make_ledger,
    check=check_meeting,
)

TOGETHER = (FAMILIES, MEETING)

"""Scenarios of workflows that are restarted and deleted, by clients and by themselves."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from tests.sim.portable import execute

from perdure.core.retry import RetryPolicy
from perdure.definitions import Definer
from perdure.runtime.contexts import ActionContext, MutationContext
from perdure.step import Step
from perdure_sim.explore.explorer import Scenario
from perdure_sim.world.actions import Stub
from perdure_sim.world.deeds import Deed
from perdure_sim.world.world import World

from .scenes import make_ledger

d = Definer()

QUICK = RetryPolicy(max_attempts=9, initial_backoff=0.1, jitter=False)


@d.action(retry=QUICK)
async def work(ctx: ActionContext, n: int) -> int:
    return n


@d.mutation
def enter(ctx: MutationContext, entry: str) -> str:
    execute(ctx.db, "INSERT INTO ledger VALUES (?)", (entry,))
    return entry


@d.workflow
async def twice(step: Step, name: str) -> list[object]:
    """A bit of everything, so that a restart has something to keep and something to do again."""
    async with asyncio.timeout(60):
        first = await step.run_action(work(1))
    late = step.run_action(work(2))
    heard = await step.await_event("word")
    await step.run_mutation(enter(f"{name} {heard}"))
    child = await step.run_workflow(idle_child(name), workflow_id=f"{name}-child")
    return [first, await late, heard, child]


@d.workflow
async def idle_child(step: Step, name: str) -> object:
    await step.run_mutation(enter(f"{name} child"))
    return await step.await_event("hurry", timeout=30)


@d.mutation
def sweep_up(ctx: MutationContext, workflow_id: str, outcome: object) -> None:
    """It has its own workflow run once more, and deletes it the next time."""
    (count,) = execute(
        ctx.db, "SELECT count(*) FROM ledger WHERE entry = ?", (f"{workflow_id} ended",)
    ).fetchone()
    execute(ctx.db, "INSERT INTO ledger VALUES (?)", (f"{workflow_id} ended",))
    if count:
        ctx.cleanup(workflow_id)
    else:
        ctx.restart(workflow_id, from_step="enter")


@d.workflow
async def phoenix(step: Step) -> None:
    await step.run_action(work(1))
    await step.run_mutation(enter("phoenix"))


@d.mutation
def begin_again(ctx: MutationContext, workflow_id: str, outcome: object) -> None:
    """Its workflow has no end."""
    ctx.restart(workflow_id)


@d.workflow
async def stubborn(step: Step) -> object:
    return await step.await_event("never")


@d.workflow
async def crossing(step: Step) -> int:
    """Its first step is the last that it hears of."""
    slow = step.run_action(work(3))
    await step.run_mutation(enter("one"))
    await step.run_mutation(enter("two"))
    return await slow


def have_again(world: World) -> None:
    """One is canceled in the middle and goes on; one is run again from a step; one is deleted; one
    does both to itself."""
    for name in "abc":
        started = world.start(twice(name), id=name)
        for at, event in ((50, "word"), (100, "late")):
            send = partial(world.send_event, event, workflow_id=name, value=name)
            world.after(at, send, started)
        hurry = partial(world.send_event, "hurry", workflow_id=f"{name}-child", value=1)
        world.after(2_000, hurry, started)
    world.after(500, lambda: world.cancel("a"))
    world.after(3_000, lambda: world.restart("a"))
    world.after(60_000, lambda: world.restart("b", from_step=work))
    world.after(61_000, lambda: world.send_event("word", workflow_id="b", value="again"))
    world.after(62_000, lambda: world.send_event("hurry", workflow_id="b-child", value=2))
    world.after(70_000, lambda: world.restart("b", from_step="word"))
    world.after(71_000, lambda: world.send_event("word", workflow_id="b", value="once more"))
    world.after(72_000, lambda: world.send_event("hurry", workflow_id="b-child", value=3))
    world.after(500, lambda: world.cleanup("c", force=True))
    world.start(phoenix(), id="p", on_complete=sweep_up)
    world.start(crossing(), id="x")
    world.after(5_000, lambda: world.restart("x", from_step=2))
    world.start(stubborn(), id="s", on_complete=begin_again)
    world.after(700, lambda: world.cleanup("s", force=True))


AGAIN = Scenario(
    name="again",
    definer=d,
    script=have_again,
    setup=make_ledger,
    stubs={"work": Stub(takes_ms=20)},
    may_wait=frozenset({"s", "b", "b-child"}),
    may_differ=frozenset({"s", "a", "b", "c", "a-child", "b-child", "c-child"}),
)


@d.workflow
async def asks_twice(step: Step) -> object:
    """It awaits an event by its id, gives that up, and awaits it again."""
    ticket = await step.await_event("ticket")
    first = step.await_event(id=str(ticket))
    await step.run_action(work(1))
    if first.done():
        return type(first.exception()).__name__
    first.cancel()
    await step.run_action(work(2))
    return await step.await_event(id=str(ticket))


@d.mutation
def rise(ctx: MutationContext, workflow_id: str, outcome: Any) -> None:
    """It has its own workflow go on whenever that is canceled."""
    if outcome.kind == "canceled":
        ctx.restart(workflow_id)


def have_gone(world: World) -> None:
    """What is restarted misses something: a child that was deleted, an event that went with the
    step that had it. And what is to be deleted restarts itself."""
    started = world.start(twice("g"), id="g")
    world.after(50, lambda: world.send_event("word", workflow_id="g", value=1), started)
    world.after(500, lambda: world.cancel("g"))
    world.after(1_000, lambda: world.cleanup("g-child"))
    world.after(1_500, lambda: world.restart("g"))
    world.after(2_500, lambda: world.send_event("hurry", workflow_id="g-child", value=1))
    world.start(asks_twice(), id="t")
    created = world.create_event("later", workflow_id="t")
    world.after(20, lambda: _show(world, created), created)
    world.after(3_000, lambda: world.restart("t", from_step=2))
    world.start(idle_child("r"), id="r", on_complete=rise)
    world.after(4_000, lambda: world.cleanup("r", force=True))


def _show(world: World, created: Deed) -> None:
    ticket = created.value
    world.send_event("ticket", workflow_id="t", value=ticket)
    world.after(1_000, lambda: world.send_event("later", workflow_id="t", value=5))


GONE = Scenario(
    name="gone",
    definer=d,
    script=have_gone,
    setup=make_ledger,
    stubs={"work": Stub(takes_ms=20)},
    may_wait=frozenset({"t"}),
    may_differ=frozenset({"g", "g-child", "t", "r"}),
)

SCENARIOS = (AGAIN, GONE)

"""Scenarios for the corners of the engine: each leads to branches that no other one comes to.

They are as small as that allows, and each workflow ends the same way whoever wins its race.
"""

from __future__ import annotations

import asyncio
from typing import Any

from tests.sim.scenes import expect_once, make_ledger

from perdure.core.limits import Limits
from perdure.core.retry import RetryPolicy
from perdure.definitions import Definer
from perdure.errors import EventNotFound, StepFailed
from perdure.runtime.contexts import ActionContext, MutationContext
from perdure.step import Step
from perdure_sim.explore.explorer import Scenario
from perdure_sim.world.actions import Stub
from perdure_sim.world.world import World

d = Definer()

QUICK = RetryPolicy(max_attempts=9, initial_backoff=0.1, jitter=False)


@d.action(retry=QUICK)
async def work(ctx: ActionContext, n: int) -> int:
    return n


@d.action(retry=QUICK, timeout=2)
async def bounded(ctx: ActionContext, n: int) -> int:
    return n


@d.mutation
def enter(ctx: MutationContext, entry: str) -> str:
    ctx.db.execute("INSERT INTO ledger VALUES (?)", (entry,))
    return entry


# --- functions that spoil the transaction that they share -----------------------------------------


@d.mutation
def spoil(ctx: MutationContext) -> None:
    ctx.db.execute("CREATE UNIQUE INDEX IF NOT EXISTS once ON ledger (entry)")
    ctx.db.execute("INSERT INTO ledger VALUES ('twice')")
    ctx.db.execute("INSERT OR ROLLBACK INTO ledger VALUES ('twice')")


@d.workflow
async def spoiler(step: Step) -> str:
    try:
        await step.run_mutation(spoil())
    except StepFailed as error:
        return error.error.type
    return "kept"


@d.workflow
async def neighbour(step: Step, name: str) -> str:
    await step.run_mutation(enter(name))
    await step.run_action(work(1))
    return await step.run_mutation(enter(f"{name} done"))


def spoil_a_batch(world: World) -> None:
    """One of three that share their commits ends the transaction of all."""
    world.start(neighbour("a"), id="a")
    world.start(spoiler(), id="s")
    world.start(neighbour("b"), id="b")


SPOILERS = Scenario(
    name="spoilers",
    definer=d,
    script=spoil_a_batch,
    setup=make_ledger,
    check=lambda world: expect_once(world, "a", "a done", "b", "b done"),
)

# --- a workflow that cancels itself, and one that ends with what it asked for ---------------------


@d.mutation
def cancel_me(ctx: MutationContext, workflow_id: str) -> None:
    ctx.cancel(workflow_id)


@d.workflow
async def suicide(step: Step) -> None:
    await asyncio.gather(
        step.run_mutation(cancel_me(step.workflow_id)), step.run_mutation(enter("never"))
    )


@d.workflow
async def hasty(step: Step) -> str:
    """It ends, or cancels, what it has only just asked for."""
    first: asyncio.Future[Any] = step.run_action(work(1))
    second: asyncio.Future[Any] = step.await_event("hurry")
    await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
    late: asyncio.Future[Any] = step.run_mutation(enter("hasty"))
    await asyncio.wait({first, second})
    late.cancel()
    return "ended"


@d.workflow
async def idle(step: Step) -> object:
    """It is given up in its first turn, perhaps just when its event comes."""
    return await step.await_event("hurry")


def end_in_haste(world: World) -> None:
    """One cancels itself by a mutation; one cancels what was admitted a moment ago; one waits."""
    world.start(suicide(), id="s")
    started = world.start(hasty(), id="h")
    world.after(0, lambda: world.send_event("hurry", workflow_id="h"), started)
    waits = world.start(idle(), id="i")
    world.after(100, lambda: world.send_event("hurry", workflow_id="i", value=1), waits)


HASTE = Scenario(
    name="haste",
    definer=d,
    script=end_in_haste,
    setup=make_ledger,
    stubs={"work": Stub(takes_ms=20)},
)

# --- actions that start and send ------------------------------------------------------------------


@d.workflow
async def helper(step: Step) -> str:
    await step.run_mutation(enter("helped"))
    thanks: str = await step.await_event("thanks")
    return thanks


@d.action(retry=QUICK)
async def ask_for_help(ctx: ActionContext) -> str:
    workflow_id = await ctx.start(helper(), id="helper")
    await ctx.run_mutation(enter_once("asked"))
    return workflow_id


@d.mutation
def enter_once(ctx: MutationContext, entry: str) -> None:
    ctx.db.execute(
        "INSERT INTO ledger SELECT ? WHERE NOT EXISTS (SELECT 1 FROM ledger WHERE entry = ?)",
        (entry, entry),
    )


@d.workflow
async def helpless(step: Step) -> str:
    helper_id = await step.run_action(ask_for_help())
    await step.run_action(say_thanks(helper_id))
    return helper_id


@d.action(retry=QUICK)
async def say_thanks(ctx: ActionContext, helper_id: str) -> None:
    await ctx.send_event("thanks", workflow_id=helper_id, value="many")


HELP = Scenario(
    name="help",
    definer=d,
    script=lambda world: world.start(helpless(), id="h"),
    setup=make_ledger,
    check=lambda world: expect_once(world, "helped", "asked"),
    may_wait=frozenset({"helper"}),  # where nobody says thanks
)

# --- what comes too late --------------------------------------------------------------------------


@d.workflow
async def doubter(step: Step) -> str:
    """It awaits one event twice, by its id."""
    event_id = await step.run_mutation(send_to(step.workflow_id))
    first: asyncio.Future[str] = step.await_event(id=event_id)
    second: asyncio.Future[Any] = step.await_event(id=event_id)
    try:
        await second
    except EventNotFound:
        return await first
    return "twice"


@d.mutation
def send_to(ctx: MutationContext, workflow_id: str) -> str:
    return ctx.send_event("by id", workflow_id=workflow_id, value="once")


@d.workflow
async def punctual(step: Step) -> str:
    """Its event is sent just in time, if nothing keeps the client."""
    for name in ("soon", "never"):
        try:
            await step.await_event(name, timeout=5)
        except TimeoutError:
            continue
    return "over"


@d.workflow
async def impatient(step: Step) -> str:
    """Its child ends while it is being cancelled."""
    child: asyncio.Future[Any] = step.run_workflow(slow_child())
    waits: asyncio.Future[Any] = step.sleep(2)
    await asyncio.wait({child, waits}, return_when=asyncio.FIRST_COMPLETED)
    child.cancel()
    await step.sleep(1)
    return "gone on"


@d.workflow
async def slow_child(step: Step) -> str:
    await step.sleep(1.98)
    await step.run_action(work(2))
    return "ended"


@d.workflow
async def repeated(step: Step) -> int:
    return await step.run_action(bounded(7))


def come_late(world: World) -> None:
    """An event just before its timeout, a child at the moment of its cancel, a slow action."""
    started = world.start(punctual(), id="p")
    world.start(impatient(), id="i")
    world.start(repeated(), id="r")
    world.start(doubter(), id="d")
    world.after(4_900, lambda: world.send_event("soon", workflow_id="p", value="it"), started)


def check_late(world: World) -> None:
    """Nothing is left of the child."""
    for workflow_id, known in world.history.workflows.items():
        assert known.state.outcome is not None, f"{workflow_id} is left"


LATE = Scenario(
    name="late",
    definer=d,
    script=come_late,
    stubs={"work": Stub(takes_ms=20), "bounded": Stub(takes_ms=1_500)},
    check=check_late,
    may_differ=frozenset({"i/0"}),
)

# --- limits ---------------------------------------------------------------------------------------


@d.workflow
async def verbose(step: Step) -> None:
    for _ in range(50):
        await step.run_mutation(enter("x" * 300))


@d.workflow
async def twin(step: Step) -> str:
    """Its child has an id that is taken."""
    try:
        await step.run_workflow(helper(), workflow_id="t")
    except StepFailed as error:
        return error.error.type
    return "had a child"


@d.workflow
async def leaver(step: Step) -> str:
    """It ends before it can learn that its child's id is taken."""
    step.run_workflow(helper(), workflow_id="l")
    return "left"


def exceed(world: World) -> None:
    """A journal that is full, and a child's id that is taken."""
    world.start(verbose(), id="v")
    world.start(twin(), id="t")
    world.start(leaver(), id="l")


LIMITS = Scenario(
    name="limits",
    definer=d,
    script=exceed,
    setup=make_ledger,
    limits=Limits(journal_bytes=4_000),
)

# --- a pool that is paused ------------------------------------------------------------------------


@d.workflow
async def queued(step: Step, name: str) -> str:
    await step.run_mutation(enter(name))
    await step.run_action(work(1))
    return await step.run_mutation(enter(f"{name} done"))


def pause_the_pool(world: World) -> None:
    """Nothing starts for a minute; what waits goes on then."""
    paused = world.set_parallelism(0)
    for name in "abc":
        world.start(queued(name), id=name)
    world.after(60_000, lambda: world.set_parallelism(2), paused)


PAUSED = Scenario(
    name="paused",
    definer=d,
    script=pause_the_pool,
    setup=make_ledger,
    check=lambda world: expect_once(world, *"abc", "a done", "b done", "c done"),
    stubs={"work": Stub(takes_ms=30)},
)

CORNERS = (SPOILERS, HASTE, HELP, LATE, LIMITS, PAUSED)

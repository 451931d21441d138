"""Definitions and scenarios of the simulator's tests: one of each thing that the engine does.

Nothing is asserted here but what a scenario's own `check` says of its ledger.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from functools import partial
from typing import Any

from tests.sim.portable import execute

from perdure.core.retry import RetryPolicy
from perdure.definitions import Definer
from perdure.errors import StepFailed
from perdure.runtime.contexts import ActionContext, MutationContext
from perdure.step import Step
from perdure_sim.explore.explorer import Scenario
from perdure_sim.world.actions import Stub
from perdure_sim.world.world import World

d = Definer()

#: Attempts follow each other at once, so that a scenario takes few events.
QUICK = RetryPolicy(max_attempts=9, initial_backoff=0.1, jitter=False)


def make_ledger(db: sqlite3.Connection) -> None:
    """A table in which each effect of a mutation leaves a row."""
    db.execute("CREATE TABLE ledger (entry TEXT NOT NULL)")


def ledger(world: World) -> list[str]:
    """The entries, in the order in which they were made."""
    return [entry for (entry,) in execute(world.db, "SELECT entry FROM ledger ORDER BY rowid")]


def expect_once(world: World, *entries: str) -> None:
    """Each of these entries is there once, and nothing else."""
    counts = Counter(ledger(world))
    assert counts == Counter(entries), f"the ledger has {dict(counts)}, expected {entries}"


@d.action(retry=RetryPolicy(max_attempts=12))
async def charge(ctx: ActionContext, n: int) -> int:
    return n


@d.action
async def once(ctx: ActionContext, n: int) -> int:
    return n


@d.action(retry=QUICK, timeout=60)
async def quick(ctx: ActionContext, n: int) -> int:
    return n


@d.mutation
def note(ctx: MutationContext, n: int) -> int:
    return n


@d.mutation
def write(ctx: MutationContext, entry: str) -> str:
    execute(ctx.db, "INSERT INTO ledger VALUES (?)", (entry,))
    return entry


@d.mutation
def write_and_fail(ctx: MutationContext, entry: str) -> None:
    execute(ctx.db, "INSERT INTO ledger VALUES (?)", (entry,))
    raise ValueError("no")


@d.mutation
def ended(ctx: MutationContext, workflow_id: str, outcome: object, context: object) -> None:
    execute(ctx.db, "INSERT INTO ledger VALUES (?)", (f"{workflow_id} ended",))


# --- two orders: the scenario to measure by -------------------------------------------------------


@d.workflow
async def order(step: Step, n: int) -> int:
    first = await step.run_action(charge(n))
    second, third = await asyncio.gather(step.run_action(charge(n + 1)), step.run_mutation(note(n)))
    await step.await_event("go", timeout=3600)
    await step.sleep(5)
    return first + second + third


def two_orders(world: World) -> None:
    """Two orders, and ten seconds later the events that they wait for."""

    def go(workflow_id: str) -> None:
        world.send_event("go", workflow_id=workflow_id, value=1)

    for workflow_id, number in (("o0", 0), ("o1", 1)):
        deed = world.start(order(number), id=workflow_id)
        world.after(10_000, partial(go, workflow_id), deed)


#: Two workers, two workflows with all that a workflow does: the scenario to measure by.
REFERENCE = Scenario(
    name="reference", definer=d, script=two_orders, stubs={"charge": Stub(takes_ms=30)}
)

# --- a transfer: mutations, a compensation, `on_complete` -----------------------------------------


@d.workflow
async def transfer(step: Step, name: str) -> str:
    await step.run_mutation(write(f"{name} taken"))
    try:
        await step.run_mutation(write_and_fail(f"{name} never"))
    except StepFailed:
        await step.run_mutation(write(f"{name} given back"))
    await step.run_action(quick(1))
    await asyncio.gather(*[step.run_mutation(write(f"{name} {n}")) for n in range(3)])
    return name


def two_transfers(world: World) -> None:
    """Two transfers whose ends are noted."""
    for name in "ab":
        world.start(transfer(name), id=name, on_complete=ended)


def check_transfers(world: World) -> None:
    """Each mutation's effect is there once, and that of the one that failed is not."""
    what = ("taken", "given back", "0", "1", "2", "ended")
    expect_once(world, *(f"{name} {each}" for name in "ab" for each in what))


TRANSFERS = Scenario(
    name="transfers", definer=d, script=two_transfers, setup=make_ledger, check=check_transfers
)

# --- events: in order, and each to one await ------------------------------------------------------


@d.workflow
async def listener(step: Step) -> list[object]:
    heard: list[object] = []
    for _ in range(4):
        heard.append(await step.await_event("word"))  # noqa: PERF401  One after the other.
    both = await asyncio.gather(step.await_event("word"), step.await_event("other"))
    try:
        await step.await_event("never", timeout=2)
    except TimeoutError:
        heard.append("late")
    return [*heard, *both]


def words(world: World) -> None:
    """Five words, and something else."""
    deed = world.start(listener(), id="l")

    def send(value: object, *others: object) -> None:
        """One after the other is told: requests that are asked at once may come in any order."""
        sent = world.send_event("word", workflow_id="l", value=value)
        if others:
            world.after(0, lambda: send(*others), sent)

    world.after(5_000, lambda: send(1, 2, 3, 4, 5), deed)
    world.after(14_000, lambda: world.send_event("other", workflow_id="l", value="o"), deed)


EVENTS = Scenario(
    name="events",
    definer=d,
    script=words,
    may_change=frozenset({"power_loss"}),  # words that were lost are sent again, after others
)

# --- a fan that is wider than the pool ------------------------------------------------------------


@d.workflow
async def fan(step: Step, width: int) -> int:
    numbers = await asyncio.gather(*[step.run_action(quick(n)) for n in range(width)])
    return sum(numbers)


def two_fans(world: World) -> None:
    """Ten actions, two at a time."""
    world.start(fan(6), id="wide")
    world.start(fan(4), id="narrow")


FANS = Scenario(
    name="fans", definer=d, script=two_fans, stubs={"quick": Stub(takes_ms=40)}, max_parallelism=2
)

# --- races, timers of asyncio's own, and at most once ---------------------------------------------


@d.workflow
async def racer(step: Step) -> str:
    slow: asyncio.Future[Any] = step.run_action(quick(1))
    fast: asyncio.Future[Any] = step.sleep(0.01)
    done, _ = await asyncio.wait({slow, fast}, return_when=asyncio.FIRST_COMPLETED)
    told = [f"{len(done)} done"]  # and not which: a fault may delay the one that is fast
    slow.cancel()
    try:
        async with asyncio.timeout(3):
            await step.await_event("never")
    except TimeoutError:
        told.append("timeout")
    for _ in range(3):
        await asyncio.sleep(1.5)
    try:
        await step.run_action(once(1))
    except StepFailed as error:
        told.append(error.error.type)
        return " ".join(told[:2])
    return " ".join(told)


def one_race(world: World) -> None:
    """One workflow."""
    world.start(racer(), id="r")


RACE = Scenario(
    name="race",
    definer=d,
    script=one_race,
    stubs={"quick": Stub(takes_ms=500), "once": Stub(takes_ms=50)},
)

# --- a tree that is cancelled ---------------------------------------------------------------------


@d.workflow
async def leaf(step: Step, seconds: int) -> int:
    await step.run_action(quick(seconds))
    await step.sleep(seconds)
    return seconds


@d.workflow
async def tree(step: Step, seconds: int) -> int:
    return sum(await asyncio.gather(*[step.run_workflow(leaf(seconds + n)) for n in range(3)]))


def two_trees(world: World) -> None:
    """One ends by itself, the other is cancelled while its leaves sleep."""
    world.start(tree(3), id="kept", on_complete=ended)
    deed = world.start(tree(10_000), id="felled", on_complete=ended)
    world.after(1_000_000, lambda: world.cancel("felled"), deed)


def check_trees(world: World) -> None:
    """Both ends are noted once; nothing of the felled tree is left."""
    expect_once(world, "kept ended", "felled ended")
    for workflow_id, known in world.history.workflows.items():
        outcome = known.state.outcome
        assert outcome is not None, f"{workflow_id} is left"


TREES = Scenario(name="trees", definer=d, script=two_trees, setup=make_ledger, check=check_trees)

# --- mutations that start, send and cancel --------------------------------------------------------


@d.workflow
async def follower(step: Step) -> object:
    return await step.await_event("lead")


@d.mutation
def lead(ctx: MutationContext, follower_id: str) -> None:
    execute(ctx.db, "INSERT INTO ledger VALUES ('led')")
    ctx.start(leaf(1), id="led")
    ctx.send_event("lead", workflow_id=follower_id, value="come")
    ctx.cancel("idler")


@d.workflow
async def idler(step: Step) -> None:
    for _ in range(30):
        await step.run_action(quick(0))
        await step.sleep(40)


@d.workflow
async def leader(step: Step, follower_id: str) -> str:
    await step.run_action(quick(1))
    await step.run_mutation(lead(follower_id))
    return "led"


def a_leader(world: World) -> None:
    """A mutation that meddles with three other workflows in its own transaction."""
    world.start(follower(), id="f")
    deed = world.start(idler(), id="idler", on_complete=ended)
    world.after(60_000, lambda: world.start(leader("f"), id="leader"), deed)


LEADERS = Scenario(
    name="leaders",
    definer=d,
    script=a_leader,
    setup=make_ledger,
    check=lambda world: expect_once(world, "led", "idler ended"),
    may_wait=frozenset("f"),  # where the leader fails, it waits for ever
)


@d.workflow
async def forever(step: Step) -> None:
    await step.await_event("never")


# --- a deploy in the middle: code that fits, and code that does not -------------------------------

old, fitting, unfit = Definer(), Definer(), Definer()


@old.action(retry=QUICK)
async def pack(ctx: ActionContext, n: int) -> int:
    return n


@old.action(retry=QUICK)
async def post(ctx: ActionContext, n: int) -> int:
    return n


for definer in (fitting, unfit):
    definer.registry.add(pack)
fitting.registry.add(post)


@old.workflow
async def parcel(step: Step, n: int) -> int:
    packed = await step.run_action(pack(n))
    await step.await_event("go", timeout=3600)
    await step.sleep(5)
    return packed + await step.run_action(post(n))


@fitting.workflow(name="parcel")
async def parcel_next(step: Step, n: int, version: int = 1) -> int:
    if version >= 2:
        return await step.run_action(post(n))
    packed = await step.run_action(pack(n))
    await step.await_event("go", timeout=3600)
    await step.sleep(5)
    return packed + await step.run_action(post(n))


@fitting.workflow
async def returned(step: Step, n: int) -> int:
    return n


@unfit.action(name="send", retry=QUICK)
async def post_renamed(ctx: ActionContext, n: int) -> int:
    return n


@unfit.workflow(name="parcel")
async def parcel_reordered(step: Step, n: int) -> str:
    await step.sleep(5)
    packed = await step.run_action(pack(n))
    return f"sent {packed + await step.run_action(post_renamed(n))}"


def two_parcels(world: World) -> None:
    """Two parcels, one after the other."""

    def go(workflow_id: str) -> None:
        world.send_event("go", workflow_id=workflow_id)

    def start(number: int) -> None:
        workflow_id = f"p{number}"
        deed = world.start(parcel(number), id=workflow_id)
        world.after(3_000, partial(go, workflow_id), deed)

    start(1)
    world.after(2_000, partial(start, 2))


_SLOW = {"pack": Stub(takes_ms=50), "post": Stub(takes_ms=50)}

#: Code that replays what the old one has begun, and so changes nothing.
DEPLOYS = Scenario(
    name="deploys", definer=old, next_definer=fitting, script=two_parcels, stubs=_SLOW
)

#: Code that does not. What one of the two has begun waits until it is back.
MISFITS = Scenario(
    name="misfits",
    definer=old,
    next_definer=unfit,
    script=two_parcels,
    stubs=_SLOW,
    may_change=frozenset({"deploy=drain", "deploy=kill"}),
)

SCENARIOS = (REFERENCE, TRANSFERS, EVENTS, FANS, RACE, TREES, LEADERS, DEPLOYS, MISFITS)

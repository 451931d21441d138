"""Small scenarios, each for something that those of scenes.py do not say.

Nothing is asserted here but what a scenario's own `check` says of its ledger and its outcomes.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import attrs
from msgspec.structs import replace
from tests.sim.portable import execute

from perdure.core.outcomes import Canceled, Outcome, Succeeded
from perdure.core.retry import RetryPolicy
from perdure.definitions import Call, Definer
from perdure.errors import StepFailed
from perdure.events import define_event
from perdure.records import Outcome as End
from perdure.runtime.contexts import ActionContext, MutationContext
from perdure.step import Step
from perdure_sim.explore.explorer import Scenario
from perdure_sim.world.actions import Stub
from perdure_sim.world.world import World

c = Definer()

#: Attempts follow each other at once, so that a scenario takes few events.
SOON = RetryPolicy(max_attempts=9, initial_backoff=0.1, jitter=False)


def make_ledger(db: sqlite3.Connection) -> None:
    """A table in which each effect of a mutation leaves a row."""
    db.execute("CREATE TABLE ledger (entry TEXT NOT NULL UNIQUE)")


def expect(world: World, *entries: str, **outcomes: Outcome) -> None:
    """Each of these entries is there, once and nothing else, and these workflows ended so."""
    found = [entry for (entry,) in execute(world.db, "SELECT entry FROM ledger ORDER BY entry")]
    assert found == sorted(entries), f"the ledger has {found}, expected {sorted(entries)}"
    for workflow_id, outcome in outcomes.items():
        known = world.history.workflows[workflow_id].state.outcome
        assert known == outcome, f"{workflow_id} ended as {known}, expected {outcome}"


def when(
    world: World, is_so: Callable[[], bool], do: Callable[[], object], tries: int = 2_000
) -> None:
    """Do something as soon as something is so, whatever goes wrong until then."""
    if is_so():
        do()
    elif tries:
        wait = 250 if tries > 300 else 5_000  # it may take very long where much goes wrong
        world.after(wait, lambda: when(world, is_so, do, tries - 1))


def has_run(world: World, workflow_id: str, count: int) -> Callable[[], bool]:
    """Whether so many attempts of a workflow's actions, or of its child's, have begun."""
    return lambda: sum(call.workflow_id.startswith(workflow_id) for call in world.calls) >= count


@c.action(retry=SOON)
async def work(ctx: ActionContext, n: int) -> int:
    return n


@c.action(retry=SOON)
async def toil(ctx: ActionContext, n: int) -> int:
    return n


@c.mutation
def enter(ctx: MutationContext, entry: str) -> str:
    execute(ctx.db, "INSERT INTO ledger VALUES (?)", (entry,))
    return entry


@c.mutation
def over(ctx: MutationContext, workflow_id: str, outcome: End) -> None:
    execute(ctx.db, "INSERT INTO ledger VALUES (?)", (f"{workflow_id} {outcome.kind}",))


# --- events to a workflow that is at work, from its own process and from another ------------------


@c.action(retry=SOON)
async def ring(ctx: ActionContext) -> None:
    for _ in range(2):
        await ctx.send_event("ring", workflow_id=ctx.workflow_id, value="r")


@c.workflow
async def bell(step: Step) -> list[object]:
    busy = asyncio.gather(step.run_action(toil(1)), step.run_action(ring()))
    heard: list[object] = []
    for name in ("ring", "ring", "word"):
        heard.append(await step.await_event(name))  # noqa: PERF401  One after the other.
    await busy
    return heard


@c.workflow
async def echo(step: Step, word: str) -> str:
    return word


def start_unnamed(world: World, call: Call[Any], id: str) -> None:
    """Start a workflow under an id that the client has not chosen but made up, as this one."""
    world._do(f"start {id}", lambda p: replace(p.orders.start(call, id=id), has_own_id=False))


def a_bell(world: World) -> None:
    """One that rings for itself, and hears a word from a client."""
    world.start(bell(), id="b")
    world.after(1_000, lambda: start_unnamed(world, echo("e"), "e"))

    def send() -> None:
        world.send_event("word", workflow_id="b", value="w")

    when(world, has_run(world, "b", 2), lambda: world.after(1_000, send))


BELL = Scenario(
    name="bell",
    definer=c,
    script=a_bell,
    stubs={"toil": Stub(takes_ms=8_000)},
    may_wait=frozenset("b"),  # where it cannot ring, it waits for ever
)

# --- a cancel in the middle of the work -----------------------------------------------------------


@c.workflow
async def toiler(step: Step) -> None:
    for n in range(100):
        await step.run_action(toil(n))


@c.workflow
async def boss(step: Step) -> None:
    await asyncio.gather(step.run_workflow(toiler()), step.run_action(work(1)))


def two_cancels(world: World) -> None:
    """One that works, and one whose child does."""
    world.start(toiler(), id="t", on_complete=over)
    world.start(boss(), id="b", on_complete=over)
    when(world, has_run(world, "t", 3), lambda: world.cancel("t"))
    when(world, has_run(world, "b/", 4), lambda: world.cancel("b"))


def check_cancels(world: World) -> None:
    """Both have ended so, and so has the child."""
    expect(world, "t canceled", "b canceled", t=Canceled(), b=Canceled())
    assert all(known.has_ended for known in world.history.workflows.values())


CANCELS = Scenario(
    name="cancels",
    definer=c,
    script=two_cancels,
    stubs={"toil": Stub(takes_ms=2_000), "work": Stub(takes_ms=10_000)},
    setup=make_ledger,
    check=check_cancels,
    # A client that cannot cancel for a minute comes too late.
    may_change=frozenset({"read_only", "disk_full"}),
)

# --- two workers, each with work of its own, and permits for one ----------------------------------


@c.workflow
async def wide(step: Step, width: int) -> int:
    return sum(await asyncio.gather(*[step.run_action(work(n)) for n in range(width)]))


def two_owners(world: World) -> None:
    """The first one is of the worker that is left, the second one of that which is back."""
    world.workers[0].crash()
    world.start(wide(5), id="first")
    world.after(700, lambda: world.start(wide(4), id="second"))


SHARES = Scenario(
    name="shares",
    definer=c,
    script=two_owners,
    stubs={"work": Stub(takes_ms=400)},
    max_parallelism=2,
)

# --- a worker that is taken for dead, and is well -------------------------------------------------


@c.workflow
async def steady(step: Step) -> int:
    for n in range(4):
        await step.run_action(toil(n))
        await step.run_mutation(enter(str(n)))
    await step.sleep(5)
    return 4


def taken_for_dead(world: World) -> None:
    """In the middle of the second of its actions."""
    world.start(steady(), id="s", on_complete=over)
    world.after(600, lambda: world.lose_lease(world.workers[0]))


TAKEN = Scenario(
    name="taken",
    definer=c,
    script=taken_for_dead,
    stubs={"toil": Stub(takes_ms=400)},
    setup=make_ledger,
    check=lambda world: expect(world, "0", "1", "2", "3", "s success", s=Succeeded("4")),
)

# --- a neighbour with other code: it buries the dead, and cannot take up what they had ------------

stranger = Definer()


def with_a_stranger(world: World) -> None:
    """The second worker knows none of the definitions."""
    neighbour = world.workers[1]
    neighbour.rules = attrs.evolve(neighbour.rules, registry=stranger.registry)
    neighbour.crash()
    world.start(steady(), id="s", on_complete=over)


STRANGER = Scenario(
    name="stranger",
    definer=c,
    script=with_a_stranger,
    stubs={"toil": Stub(takes_ms=400)},
    setup=make_ledger,
    check=lambda world: expect(world, "0", "1", "2", "3", "s success", s=Succeeded("4")),
)

# --- values that JSON does not know ---------------------------------------------------------------


@dataclass
class Bill:
    """With one of each type that the codec turns into text."""

    amount: Decimal
    at: datetime
    number: UUID
    parts: tuple[int, ...]


BILL = Bill(Decimal("1.10"), datetime(2033, 5, 18, 1, 2, 3, 4_000, tzinfo=UTC), UUID(int=7), (1, 2))
SENT = define_event("sent", Bill)


@c.action(retry=SOON)
async def audit(ctx: ActionContext, bill: Bill) -> Bill:
    return bill


@c.mutation
def enter_bill(ctx: MutationContext, bill: Bill) -> Bill:
    return bill


@c.workflow
async def passes(step: Step, bill: Bill) -> Bill:
    return bill


@c.workflow
async def values(step: Step, bill: Bill) -> str:
    bills = [
        bill,
        await step.run_action(audit(bill)),
        await step.run_mutation(enter_bill(bill)),
        await step.await_event(SENT),
        await step.run_workflow(passes(bill)),
    ]
    return " ".join("same" if each == BILL else repr(each) for each in bills)


def a_bill(world: World) -> None:
    """One goes through all doors."""
    world.start(values(BILL), id="v")
    when(
        world,
        has_run(world, "v", 1),
        lambda: world.send_event(SENT, workflow_id="v", value=BILL),
    )


VALUES = Scenario(
    name="values",
    definer=c,
    script=a_bill,
    setup=make_ledger,
    check=lambda world: expect(world, v=Succeeded('"same same same same same"')),
)

# --- sets, whose order is nobody's choice ---------------------------------------------------------


@c.workflow
async def waiter(step: Step) -> None:
    futures = {step.run_action(work(n)) for n in range(5)}
    while futures:
        done, futures = await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        for each in done:
            await step.run_mutation(enter(f"waited for {each.result()}"))
    for soon in asyncio.as_completed([step.run_action(toil(n)) for n in range(2)]):
        await step.run_mutation(enter(f"toiled {await soon}"))


def a_waiter(world: World) -> None:
    """One workflow."""
    world.start(waiter(), id="w")


WAITER = Scenario(
    name="waiter",
    definer=c,
    script=a_waiter,
    stubs={"work": Stub(takes_ms=30), "toil": Stub(takes_ms=50)},
    setup=make_ledger,
    check=lambda world: expect(
        world, *(f"waited for {n}" for n in range(5)), "toiled 0", "toiled 1", w=Succeeded("null")
    ),
)

# --- times that are over, and times that are short ------------------------------------------------


@c.action(retry=RetryPolicy(max_attempts=2, initial_backoff=0.1, jitter=False), timeout=1)
async def slow(ctx: ActionContext) -> int:
    return 1


@c.workflow
async def hasty(step: Step) -> str:
    told = []
    given_up = step.run_action(toil(1))
    for pause in (0.0015, 0.0201):
        before = step.now()
        await step.sleep(pause)
        told.append("slept" if (step.now() - before).total_seconds() >= pause else "woke early")
    given_up.cancel()
    try:
        await step.run_action(slow())
    except StepFailed:
        told.append("timed out")
    with contextlib.suppress(TimeoutError):
        await step.await_event("late", timeout=0.5)
    return " ".join(told)


def a_hasty_one(world: World) -> None:
    """What it waits for comes a little too late."""
    world.start(hasty(), id="h")
    when(
        world,
        has_run(world, "h", 3),
        lambda: world.after(1_800, lambda: world.send_event("late", workflow_id="h")),
    )


HASTY = Scenario(
    name="hasty",
    definer=c,
    script=a_hasty_one,
    stubs={"slow": Stub(takes_ms=1_200), "toil": Stub(takes_ms=5_000)},
    may_change=frozenset({"jump_back"}),  # by a clock that stands still it is in time
    setup=make_ledger,
    check=lambda world: expect(world, h=Succeeded('"slept slept timed out"')),
)

# --- poison: what goes wrong with one workflow harms no other -------------------------------------


@c.mutation
def over_and_out(ctx: MutationContext, workflow_id: str, outcome: End) -> None:
    execute(ctx.db, "INSERT INTO ledger VALUES ('never')")
    raise ValueError("no")


@c.workflow
async def plain(step: Step, name: str) -> str:
    for n in range(2):
        await step.run_mutation(enter(f"{name} {n}"))
    return name


def _end(world: World, workflow_id: str, *, tries: int) -> None:
    known = world.history.workflows.get(workflow_id)
    if known is not None and known.state.status == "in_progress":
        world.cancel(workflow_id)
    if tries:
        world.after(30_000, lambda: _end(world, workflow_id, tries=tries - 1))


def poison(world: World) -> None:
    """One with arguments that no longer fit, one with a callback that raises, and a good one."""

    def start_bad(process: Any) -> Any:
        return replace(process.orders.start(echo("x"), id="bad"), arguments='{"word":1}')

    world.may_block.add("bad")
    started = world._do("start bad", start_bad)
    world.start(plain("p"), id="p", on_complete=over_and_out)
    world.start(plain("q"), id="q", on_complete=over)
    # Else it is tried again for ever, every ten minutes in the end: also when somebody restarts it.
    world.after(30_000, lambda: _end(world, "bad", tries=4), started)


def check_poison(world: World) -> None:
    """Each has ended as by itself alone."""
    expect(
        world,
        *("p 0", "p 1", "q 0", "q 1", "q success"),
        p=Succeeded('"p"'),
        q=Succeeded('"q"'),
        bad=Canceled(),
    )


POISON = Scenario(name="poison", definer=c, script=poison, setup=make_ledger, check=check_poison)

# --- mended: a blocked workflow is restarted ------------------------------------------------------


@c.mutation
def knock(ctx: MutationContext) -> int:
    ((count,),) = execute(ctx.db, "SELECT count(*) FROM ledger WHERE entry LIKE 'knock%'")
    execute(ctx.db, "INSERT INTO ledger VALUES (?)", (f"knock {count}",))
    return int(count)


@c.workflow
async def visit(step: Step) -> str:
    working = step.run_action(toil(1))
    await step.run_mutation(enter("at the door"))
    if await step.run_mutation(knock()) == 0:
        await working
        await asyncio.get_running_loop().create_future()  # nobody will resolve it
    return str(await working)


def mended(world: World) -> None:
    """Nobody opens at the first time, and it waits for nothing: it is sent to knock again, and once
    more where the power took the restart back."""
    world.may_block.add("m")

    def is_blocked() -> bool:
        known = world.history.workflows.get("m")
        return known is not None and known.state.is_blocked

    def send_again(tries: int) -> None:
        world.restart("m", from_step=2)
        if tries:
            world.after(90_000, lambda: when(world, is_blocked, lambda: send_again(tries - 1)))

    world.start(visit(), id="m", on_complete=over)
    when(world, is_blocked, lambda: send_again(4))


def check_mended(world: World) -> None:
    """It had no end before the one that it has. A restart that is asked for again, or by two, may
    be carried out after that: then it knocks once more."""
    entries = [entry for (entry,) in execute(world.db, "SELECT entry FROM ledger")]
    knocks = max(2, sum(entry.startswith("knock") for entry in entries))
    wanted = [f"knock {number}" for number in range(knocks)]
    expect(world, "at the door", *wanted, "m success", m=Succeeded('"1"'))


MENDED = Scenario(
    name="mended",
    definer=c,
    script=mended,
    setup=make_ledger,
    stubs={"toil": Stub(takes_ms=500)},
    check=check_mended,
)

EDGES = (BELL, CANCELS, SHARES, TAKEN, STRANGER, VALUES, WAITER, HASTY, POISON, MENDED)

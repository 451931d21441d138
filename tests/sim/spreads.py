"""Scenarios in which workers run each other's steps: fan-outs that are wider than the pool.

Nothing is asserted here but what a scenario's own `check` says.
"""

from __future__ import annotations

import asyncio

from tests.sim.scenes import QUICK

from perdure.definitions import Definer
from perdure.errors import StepFailed
from perdure.runtime.contexts import ActionContext
from perdure.step import Step
from perdure_sim.explore.explorer import Scenario
from perdure_sim.world.actions import Stub
from perdure_sim.world.world import World

d = Definer()


@d.action(retry=QUICK)
async def spin(ctx: ActionContext, n: int) -> int:
    return n


@d.action
async def spin_once(ctx: ActionContext, n: int) -> int:
    return n


@d.action(retry=QUICK, timeout=2)
async def crawl(ctx: ActionContext, n: int) -> int:
    return n


@d.action
async def linger(ctx: ActionContext, n: int) -> int:
    return n


@d.action(retry=QUICK, timeout=600)
async def quick_end(ctx: ActionContext, n: int) -> int:
    return n


# --- one workflow over three workers --------------------------------------------------------------


@d.workflow
async def spread(step: Step, width: int) -> int:
    numbers = await asyncio.gather(*[step.run_action(spin(n)) for n in range(width)])
    return sum(numbers)


def one_spread(world: World) -> None:
    """Twelve steps of one workflow, three at a time."""
    world.start(spread(12), id="s")


SPREAD = Scenario(
    name="spread",
    definer=d,
    script=one_spread,
    stubs={"spin": Stub(takes_ms=60)},
    workers=3,
    max_parallelism=3,
)

# --- at most once ---------------------------------------------------------------------------------


@d.workflow
async def spread_once(step: Step, width: int) -> int:
    asked = [step.run_action(spin_once(n)) for n in range(width)]
    ended = await asyncio.gather(*asked, return_exceptions=True)
    for each in ended:
        if isinstance(each, BaseException) and not isinstance(each, StepFailed):
            raise each
    return len(ended)


def one_spread_once(world: World) -> None:
    """Steps without a retry, and a second workflow in the queue behind them."""
    deed = world.start(spread_once(8), id="once")
    world.after(100, lambda: world.start(spread(3), id="behind"), deed)


SPREAD_ONCE = Scenario(
    name="spread once",
    definer=d,
    script=one_spread_once,
    stubs={"spin": Stub(takes_ms=50), "spin_once": Stub(takes_ms=90)},
    max_parallelism=2,
)

# --- nobody waits for them any more ---------------------------------------------------------------


@d.workflow
async def impatient(step: Step, width: int) -> str:
    fast = step.run_action(quick_end(0))
    slow = [step.run_action(linger(n)) for n in range(width)]
    await fast
    await step.sleep(1)
    for each in slow:
        each.cancel()
    # What runs on holds its permits: this one waits for them.
    await step.run_action(quick_end(1))
    last = [step.run_action(linger(n)) for n in range(3)]
    await step.run_action(quick_end(2))
    await step.sleep(1)
    del last  # the end cancels them
    return "done"


def one_impatient(world: World) -> None:
    """Steps that would take minutes are cancelled by their handler, and by its end."""
    world.start(impatient(6), id="i")


IMPATIENT = Scenario(
    name="impatient",
    definer=d,
    script=one_impatient,
    stubs={"linger": Stub(takes_ms=100_000), "quick_end": Stub(takes_ms=20)},
    workers=3,
    max_parallelism=4,
)

# --- nobody waits for some of them any more -------------------------------------------------------


@d.workflow
async def choosy(step: Step, width: int) -> list[int]:
    asked = [step.run_action(linger(n)) for n in range(width)]
    await step.sleep(1)
    for each in asked[::2]:
        each.cancel()
    ended = await asyncio.gather(*asked[1::2], return_exceptions=True)
    return [0 if isinstance(each, BaseException) else each for each in ended]


def one_choosy(world: World) -> None:
    """Every other step is cancelled while it runs; those beside it go on, and run once."""
    world.start(choosy(8), id="c")


def check_choosy(world: World) -> None:
    """None was stopped whose outcome was waited for."""
    for record in world.history.workflows["c"].steps.values():
        error = getattr(record.outcome, "error", None)
        assert error is None or error.type != "CancelledError", record


CHOOSY = Scenario(
    name="choosy",
    definer=d,
    script=one_choosy,
    check=check_choosy,
    may_differ=frozenset("c"),  # what dies with its worker is not tried again
    stubs={"linger": Stub(takes_ms=3_000)},
    max_parallelism=4,
)

# --- time-outs of steps that others run -----------------------------------------------------------


def _one_of_three_is_slow() -> Stub:
    count = 0

    def takes_ms() -> int:
        nonlocal count
        count += 1
        return 5_000 if count % 3 == 0 else 300

    return Stub(takes_ms=takes_ms)


@d.workflow
async def crawling(step: Step, width: int) -> int:
    return sum(await asyncio.gather(*[step.run_action(crawl(n)) for n in range(width)]))


def one_crawling(world: World) -> None:
    """Some attempts take longer than they may. (The stub counts: each run has one of its own.)"""
    world.stubs["crawl"] = _one_of_three_is_slow()
    world.start(crawling(6), id="c")


CRAWLING = Scenario(name="crawling", definer=d, script=one_crawling, max_parallelism=2)
# --- cancel and restart while others run the steps ------------------------------------------------


def one_felled(world: World) -> None:
    """A workflow is canceled while two workers run its steps, then runs again."""
    deed = world.start(spread(8), id="felled")
    other = world.start(spread(4), id="kept")

    def cancel() -> None:
        canceled = world.cancel("felled")
        world.after(30, lambda: world.restart("felled"), canceled)

    world.after(400, cancel, deed)
    world.after(100, lambda: None, other)


FELLED = Scenario(
    name="felled",
    definer=d,
    script=one_felled,
    stubs={"spin": Stub(takes_ms=250)},
    max_parallelism=3,
    may_differ=frozenset({"felled"}),
)

SPREADS = (SPREAD, SPREAD_ONCE, IMPATIENT, CHOOSY, CRAWLING, FELLED)

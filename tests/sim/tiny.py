"""The smallest scenarios, for tests of the command line: one workflow of one mutation each.

Some of them are wrong on purpose.
"""

from __future__ import annotations

import os
import signal
import sqlite3

from perdure.definitions import Definer
from perdure.runtime.contexts import MutationContext
from perdure.step import Step
from perdure_sim.explore.explorer import Scenario
from perdure_sim.world.world import World

d = Definer()


@d.mutation
def take(ctx: MutationContext, n: int) -> int:
    ctx.db.execute("INSERT INTO taken VALUES (?)", (n,))
    return n


@d.workflow
async def shop(step: Step) -> int:
    return await step.run_mutation(take(1))


def make_table(db: sqlite3.Connection) -> None:
    """Where the mutation leaves a row."""
    db.execute("CREATE TABLE taken (n INTEGER)")


def one_shop(world: World) -> None:
    """One workflow."""
    world.start(shop(), id="a")


def taken_once(world: World) -> None:
    """The mutation's effect is there once."""
    assert world.db.execute("SELECT count(*) FROM taken").fetchone() == (1,)


def no_crash(world: World) -> None:
    """Fails where a process crashed: what no engine can keep."""
    crashes = [event for event in world.trace.events if event.kind == "crash"]
    assert crashes == [], f"{crashes[0].lane} crashed"


def never(world: World) -> None:
    """Fails always."""
    raise AssertionError("as it was told to")


def endless(world: World) -> None:
    """Goes on for ever where a process crashed."""
    while any(event.kind == "crash" for event in world.trace.events):
        pass


def dying(world: World) -> None:
    """Kills the process that it runs in where a simulated one crashed."""
    if any(event.kind == "crash" for event in world.trace.events):
        os._exit(7)


def interrupting(world: World) -> None:
    """Is Ctrl-C where a process crashed."""
    if any(event.kind == "crash" for event in world.trace.events):
        os.kill(os.getpid(), signal.SIGINT)


TINY = Scenario(
    name="tiny", definer=d, script=one_shop, setup=make_table, workers=1, check=taken_once
)
OTHER = Scenario(name="other", definer=d, script=one_shop, setup=make_table, workers=1)
NO_CRASH = Scenario(
    name="no crash", definer=d, script=one_shop, setup=make_table, workers=1, check=no_crash
)
NEVER = Scenario(name="never", definer=d, script=one_shop, setup=make_table, check=never)
ENDLESS = Scenario(name="endless", definer=d, script=one_shop, setup=make_table, check=endless)
DYING = Scenario(name="dying", definer=d, script=one_shop, setup=make_table, check=dying)
INTERRUPTING = Scenario(
    name="interrupting", definer=d, script=one_shop, setup=make_table, check=interrupting
)
BOTH = (TINY, OTHER)
MIXED = [TINY, NO_CRASH]
NAMESAKE = Scenario(name="tiny", definer=d, script=one_shop, setup=make_table)
NOTHING: tuple[Scenario, ...] = ()
WRONG = (TINY, 5)

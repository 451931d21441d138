"""Workflows that a client watches, while workers and clients have them go on, end, and be gone."""

from __future__ import annotations

from functools import partial

from perdure.step import Step
from perdure_sim.explore.explorer import Scenario
from perdure_sim.world.actions import Stub
from perdure_sim.world.world import World

from .again import d, phoenix, sweep_up, twice, work
from .scenes import make_ledger


@d.workflow
async def stays(step: Step) -> object:
    await step.run_action(work(1))
    return await step.await_event("never")


def have_stayed(world: World) -> None:
    world.after(0, partial(world.watch, "s"), world.start(stays(), id="s"))


def have_watched(world: World) -> None:
    """One ends by itself, one is canceled, one restarted, one deleted while it runs; one deletes
    itself, in a worker; and one stays as it is."""
    # An outage of a minute is some thousand tries, each of which all who watch are told of.
    world.events_max *= 4
    for name in "abcd":
        started = world.start(twice(name), id=name)
        world.after(0, partial(world.watch, name), started)
        for at, event in ((50, "word"), (100, "late")):
            send = partial(world.send_event, event, workflow_id=name, value=name)
            world.after(at, send, started)
        hurry = partial(world.send_event, "hurry", workflow_id=f"{name}-child", value=1)
        world.after(2_000, hurry, started)
    world.after(0, partial(world.watch, "p"), world.start(phoenix(), id="p", on_complete=sweep_up))
    # Last: what a client does wakes all who watch.
    world.after(80_000, partial(have_stayed, world))
    world.after(70, partial(world.watch, "a"))
    world.after(500, lambda: world.cancel("b"))
    world.after(500, lambda: world.cancel("c"))
    world.after(3_000, lambda: world.restart("c"))
    world.after(500, lambda: world.cleanup("d", force=True))


WATCHED = Scenario(
    name="watched",
    definer=d,
    script=have_watched,
    setup=make_ledger,
    stubs={"work": Stub(takes_ms=20)},
    may_differ=frozenset({*"abcd", *(f"{name}-child" for name in "abcd")}),
    may_wait=frozenset({"c", "c-child", "s"}),
)

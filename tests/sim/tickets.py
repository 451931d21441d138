"""Scenarios of events that are created before they are sent, and awaited and sent by their ids.

Nothing is asserted here but what a scenario's own `check` says of its outcomes.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from tests.sim.scenes import QUICK

from perdure.definitions import Definer
from perdure.errors import EventAlreadySent, EventNotFound
from perdure.runtime.contexts import ActionContext, MutationContext
from perdure.step import Step
from perdure_sim.explore.explorer import Scenario
from perdure_sim.world.deeds import Deed
from perdure_sim.world.world import World

d = Definer()


@d.mutation
def print_ticket(ctx: MutationContext, workflow_id: str) -> str:
    return ctx.create_event("own", workflow_id=workflow_id)


@d.action(retry=QUICK)
async def show(ctx: ActionContext, ticket: str) -> str:
    """Another attempt finds that the first one has sent it."""
    try:
        return await ctx.send_event(id=ticket, value="by id")
    except EventAlreadySent:
        return ticket


@d.workflow
async def visitor(step: Step) -> list[Any]:
    """Its own ticket, shown by an action; that of a client, shown by name; and one of another's."""
    ticket = await step.run_mutation(print_ticket(step.workflow_id))
    shown: asyncio.Future[Any] = step.await_event(id=ticket)
    assert await step.run_action(show(ticket)) == ticket
    told = [await shown]
    given = await step.await_event("given")
    told.append(await step.await_event(id=given, timeout=9_000))
    for wrong in (ticket, await step.await_event("foreign")):
        try:
            await step.await_event(id=wrong)
        except EventNotFound:
            told.append("refused")
    return told


@d.workflow
async def keeper(step: Step) -> object:
    return await step.await_event("closing time")


def visit(world: World) -> None:
    """A client makes a ticket for each of the two, gives both to the visitor, and sends by name."""

    def start_keeper() -> None:
        started = world.start(keeper(), id="k")
        for workflow_id in "vk":
            world.after(1_000, partial(give, world, workflow_id), started)

    world.after(0, start_keeper, world.start(visitor(), id="v"))


def give(world: World, workflow_id: str) -> None:
    created = world.create_event("shown", workflow_id=workflow_id)
    name = "given" if workflow_id == "v" else "foreign"
    world.after(0, lambda: tell(world, name, created), created)
    world.after(9_000, lambda: use(world, workflow_id), created)


def use(world: World, workflow_id: str) -> None:
    used = world.send_event("shown", workflow_id=workflow_id, value="by name")
    if workflow_id == "k":
        close = partial(world.send_event, "closing time", workflow_id="k", value="closed")
        world.after(0, close, used)


def tell(world: World, name: str, created: Deed) -> None:
    world.send_event(name, workflow_id="v", value=created.value)


def check_visit(world: World) -> None:
    """Each event came to its await; that of the keeper could not be awaited by the visitor."""
    for known in world.history.workflows.values():
        names = sorted(event.name for event in known.sent.values())
        is_keeper = known.workflow_id == "k"
        expected = ["closing time", "shown"] if is_keeper else ["foreign", "given", "own", "shown"]
        assert names == expected, f"{known.workflow_id} has the events {names}"


TICKETS = Scenario(
    name="tickets",
    definer=d,
    script=visit,
    check=check_visit,
    may_change=frozenset({"power_loss"}),  # tickets that were lost are made anew, with other ids
)

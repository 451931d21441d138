"""Workflows with very many steps at a time: the work for each must not grow with their number.

Work is counted as calls of Python functions, generators resumed among them, in the worker's turns:
four times the steps may take four times the calls, and a little more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests.counting import counted
from tests.runtime.harness import Rig

from perdure.definitions import Definer
from perdure.runtime.contexts import ActionContext, MutationContext
from perdure.step import Step

Events = Callable[[int], list[str]]
d = Definer()

FEW, MANY = 500, 2_000
#: What MANY may cost, measured in what FEW cost; quadratic work would come to 16.
FACTOR_MAX = 6.0


@d.mutation
def noted(ctx: MutationContext, index: int) -> int:
    return index


@d.action
async def fetched(ctx: ActionContext, index: int) -> int:
    return index


@d.mutation
def send_all(ctx: MutationContext, workflow_id: str, names: list[str]) -> None:
    for name in names:
        ctx.send_event(name, workflow_id=workflow_id)


@d.mutation
def made(ctx: MutationContext, workflow_id: str, count: int) -> list[str]:
    return [ctx.create_event(f"e{i}", workflow_id=workflow_id) for i in range(count)]


@d.mutation
def made_alike(ctx: MutationContext, workflow_id: str, count: int) -> list[str]:
    return [ctx.create_event("e", workflow_id=workflow_id) for _ in range(count)]


@d.mutation
def send_each(ctx: MutationContext, ids: list[str]) -> None:
    for each in reversed(ids):
        ctx.send_event(id=each)


@d.workflow
async def child(step: Step, index: int) -> int:
    return index


@d.workflow
async def mutations(step: Step, count: int) -> int:
    return len(await asyncio.gather(*(step.run_mutation(noted(i)) for i in range(count))))


@d.workflow
async def actions(step: Step, count: int) -> int:
    return len(await asyncio.gather(*(step.run_action(fetched(i)) for i in range(count))))


@d.workflow
async def children(step: Step, count: int) -> int:
    return len(await asyncio.gather(*(step.run_workflow(child(i)) for i in range(count))))


@d.workflow
async def sleeps(step: Step, count: int) -> int:
    return len(await asyncio.gather(*(step.sleep(0.5) for _ in range(count))))


@d.workflow
async def same_events(step: Step, count: int) -> int:
    busy = step.run_action(fetched(0))  # so that its worker keeps it in memory
    found = await asyncio.gather(*(step.await_event("e") for _ in range(count)))
    await busy
    return len(found)


@d.workflow
async def own_events(step: Step, count: int) -> int:
    return len(await asyncio.gather(*(step.await_event(f"e{i}") for i in range(count))))


@d.workflow
async def own_ids(step: Step, count: int) -> int:
    ids = await step.run_mutation(made(step.workflow_id, count))
    await step.run_mutation(send_each(ids))
    return len(await asyncio.gather(*(step.await_event(id=each) for each in ids)))


@d.workflow
async def ids_of_one_name(step: Step, count: int) -> int:
    ids = await step.run_mutation(made_alike(step.workflow_id, count))
    await step.run_mutation(send_each(ids))
    return len(await asyncio.gather(*(step.await_event(id=each) for each in ids)))


@d.workflow
async def ids_beside_its_name(step: Step, count: int) -> int:
    """All are awaited by their ids, and for the name others wait, in vain."""
    ids = await step.run_mutation(made_alike(step.workflow_id, count))
    await step.run_mutation(send_each(ids))
    by_id = [step.await_event(id=each) for each in ids]
    _by_name = [step.await_event("e") for _ in range(count)]
    return len(await asyncio.gather(*by_id))


@d.workflow
async def one_by_one(step: Step, count: int) -> int:
    await step.sleep(0.5)  # all of them are there when it begins
    for _ in range(count):
        await step.await_event("e")
    return count


@d.workflow
async def timed_out(step: Step, count: int) -> int:
    waits = (step.await_event("e", timeout=0.5) for _ in range(count))
    found = await asyncio.gather(*waits, return_exceptions=True)
    return sum(isinstance(each, TimeoutError) for each in found)


@d.workflow
async def beside_others(step: Step, count: int) -> int:
    await step.sleep(0.5)  # all of them are there when it begins, and as many that nobody awaits
    for _ in range(count):
        await step.await_event("e")
    return count


@d.workflow
async def timed_out_beside_others(step: Step, count: int) -> int:
    await step.sleep(0.5)
    waits = (step.await_event("e", timeout=0.5) for _ in range(count))
    found = await asyncio.gather(*waits, return_exceptions=True)
    return sum(isinstance(each, TimeoutError) for each in found)


@d.workflow
async def created_alike(step: Step, count: int) -> int:
    """Nobody awaits them; each send takes the oldest of those that are left."""
    await step.run_mutation(made_alike(step.workflow_id, count))
    await step.sleep(0.5)
    await step.run_mutation(send_all(step.workflow_id, ["e"] * count))
    await step.await_event("e")
    return count


@d.workflow
async def created_and_awaited(step: Step, count: int) -> int:
    """Each send takes the event of whoever waits longest for one of the name by its id."""
    ids = await step.run_mutation(made_alike(step.workflow_id, count))
    waits = [step.await_event(id=each) for each in ids]
    await step.run_mutation(send_all(step.workflow_id, ["e"] * count))
    return len(await asyncio.gather(*waits))


@d.workflow
async def created_beside_others(step: Step, count: int) -> int:
    """Nobody awaits them, while others are awaited by their ids."""
    others = await step.run_mutation(made(step.workflow_id, count))
    _unheard = [step.await_event(id=each) for each in others]
    await step.run_mutation(made_alike(step.workflow_id, count))
    await step.run_mutation(send_all(step.workflow_id, ["e"] * count))
    return count


@d.workflow
async def created_behind_a_name(step: Step, count: int) -> int:
    """Half of the sends are for those who wait for the name, and wait longest."""
    ids = await step.run_mutation(made_alike(step.workflow_id, count))
    waits = [step.await_event("e") for _ in range(count // 2)]
    waits += [step.await_event(id=each) for each in ids]
    await step.run_mutation(send_all(step.workflow_id, ["e"] * len(waits)))
    return len(await asyncio.gather(*waits)) - count // 2


@d.workflow
async def canceled(step: Step, count: int) -> int:
    futures = [step.run_action(fetched(i)) for i in range(count)]
    await step.sleep(0.5)
    for future in futures:
        future.cancel()
    await step.sleep(0.5)
    return count


@d.workflow
async def abandoned(step: Step, count: int) -> int:
    """It ends while all is open."""
    _open = [step.await_event(f"e{i}") for i in range(count)]
    await step.sleep(0.5)
    return count


WIDE = {
    workflow.name: workflow
    for workflow in (
        mutations,
        actions,
        children,
        sleeps,
        same_events,
        own_events,
        own_ids,
        ids_of_one_name,
        ids_beside_its_name,
        one_by_one,
        timed_out,
        created_alike,
        created_and_awaited,
        created_beside_others,
        created_behind_a_name,
        beside_others,
        timed_out_beside_others,
        canceled,
        abandoned,
    )
}


def same_name(count: int) -> list[str]:
    """Events of one name."""
    return ["e"] * count


def own_names(count: int) -> list[str]:
    """One event for each name, the last name first."""
    return [f"e{index}" for index in reversed(range(count))]


def others(count: int) -> list[str]:
    """Events that nobody awaits."""
    return ["x"] * count


def others_first(count: int) -> list[str]:
    """Behind them those that are awaited."""
    return ["x"] * count + ["e"] * count


def nothing(count: int) -> list[str]:
    """Nobody sends anything."""
    return []


def work(name: str, events: Events, count: int) -> int:
    """The calls that a workflow of so many steps takes from its start to its end."""
    rig = Rig(d, parallelism=100_000)
    with counted() as calls:
        workflow_id = rig.start(WIDE[name](count))
        rig.done(rig.ask_run(send_all(workflow_id, events(count))))
        while workflow_id not in rig.ended_with:
            while rig.runner.open:
                rig.runner.succeed("1")
            rig.clock.advance(600)
            rig.settle()
    assert rig.outcome(workflow_id) == count
    rig.close()
    return calls()


@pytest.mark.parametrize(
    ("name", "events"),
    [
        ("mutations", nothing),
        ("actions", nothing),
        ("children", nothing),
        ("sleeps", nothing),
        ("same_events", same_name),
        ("own_events", own_names),
        ("own_ids", nothing),
        ("ids_of_one_name", nothing),
        ("ids_beside_its_name", nothing),
        ("one_by_one", same_name),
        ("timed_out", nothing),
        ("created_alike", nothing),
        ("beside_others", others_first),
        ("timed_out_beside_others", others),
        ("canceled", nothing),
        ("abandoned", nothing),
    ],
)
def test_work_grows_no_faster_than_the_number_of_steps(name: str, events: Events) -> None:
    """Four times the steps take about four times the calls."""
    few, many = (work(name, events, count) for count in (FEW, MANY))
    assert many / few < FACTOR_MAX, (few, many)


@pytest.mark.parametrize(
    "name", ["created_and_awaited", "created_beside_others", "created_behind_a_name"]
)
def test_a_send_by_name_costs_no_more_beside_many_waits(name: str) -> None:
    """The store itself finds the event that it is for. (Fewer of them: it looks at each wait.)"""
    few, many = (work(name, nothing, count // 5) for count in (FEW, MANY))
    assert many / few < FACTOR_MAX, (few, many)

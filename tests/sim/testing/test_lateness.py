"""Attempts are late enough for whatever waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from perdure import ActionContext, Step, StepFailed, WorkflowManager
from perdure.definitions import WorkflowCall
from perdure_sim import Simulation, run_simulation, simulate
from perdure_sim.testing.lateness import watch

manager = WorkflowManager("late.db", retry_actions_by_default=True)


@manager.action
async def ship(ctx: ActionContext, order: int) -> str:
    raise AssertionError("tests stub it")


@manager.action(timeout=7_200)
async def label(ctx: ActionContext, order: int) -> str:
    raise AssertionError("tests stub it")


@manager.workflow
async def send(step: Step, order: int) -> str:
    await step.run_action(ship(order))
    return "sent"


@manager.workflow
async def send_again(step: Step, order: int) -> str:
    """Wrong: the child has no id, and what it did before it was canceled is done once more."""
    try:
        async with asyncio.timeout(3_600):
            return await step.run_workflow(send(order))
    except TimeoutError:
        return await step.run_workflow(send(order))


@manager.workflow
async def label_or_not(step: Step, order: int) -> str:
    try:
        return await step.run_action(label(order), retry=False)
    except StepFailed:
        return "none"


@manager.workflow
async def first_of_two(step: Step, order: int) -> str:
    """A sleep is what ends the wait."""
    shipped = asyncio.ensure_future(step.run_action(ship(order)))
    slept = asyncio.ensure_future(step.sleep(86_400))
    waits: list[asyncio.Future[Any]] = [shipped, slept]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    return "shipped" if shipped.done() else "late"


@manager.workflow
async def many_timers(step: Step, order: int) -> str:
    """Each with an end of its own; only a few are tried."""
    sleeps = [step.sleep(seconds) for seconds in (30, 60, 200, 300, 400, 500)]
    await asyncio.gather(*sleeps, step.run_action(ship(order)))
    return "shipped"


def late_for(call: WorkflowCall[str]) -> dict[str, tuple[int, ...]]:
    """What a run without faults says."""
    found: list[Callable[[], dict[str, tuple[int, ...]]]] = []

    def scenario(sim: Simulation) -> None:
        sim.stub(ship, returns="s", takes="2s")
        sim.stub(label, returns="l")
        found.append(watch(sim._world))
        run = sim.start(call)
        sim.settle()
        assert run.error is None

    assert run_simulation(manager, scenario).failure is None
    return found[0]()


@pytest.mark.parametrize(
    ("call", "late"),
    [
        (send(1), {"ship": ()}),
        (send_again(1), {"ship": (3_601_000,)}),
        (label_or_not(1), {"label": (7_201_000,)}),
        (first_of_two(1), {"ship": (86_401_000,)}),
        # What is late as usual, by 90 s, outlasts those of 30 s and 60 s, but not one alone.
        (many_timers(1), {"ship": (31_000, 301_000, 501_000)}),
    ],
    ids=["nothing", "timer", "time-out", "sleep", "many"],
)
def test_the_waits_that_are_open_when_an_attempt_begins(
    call: WorkflowCall[str], late: dict[str, tuple[int, ...]]
) -> None:
    """Only they are outlasted: what the workflow waits for at that moment."""
    assert late_for(call) == late


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (send_again(1), "sent"),
        (label_or_not(1), "l"),
        (first_of_two(1), "shipped"),
    ],
    ids=["timer", "time-out", "sleep"],
)
def test_long_waits_come_to_their_end(call: WorkflowCall[str], text: str) -> None:
    """No attempt that is 90 s late has them end otherwise."""

    @simulate(manager, faults=["slow"], given={})
    def test(sim: Simulation) -> None:
        sim.stub(ship, returns="s")
        sim.stub(label, returns="l")
        run = sim.start(call)
        sim.settle()
        assert run.value == text
        assert len({call.idempotency_key for call in sim.calls(ship)}) <= 1

    whole: Any = test
    with pytest.raises(AssertionError) as raised:
        whole()
    assert "=slow:" in "".join(raised.value.__notes__)

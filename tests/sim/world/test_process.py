"""Simulated processes look when real ones would: they poll, and try again what failed."""

from __future__ import annotations

import asyncio

import pytest
from tests.sim.scenes import d, leaf, once

from perdure.step import Step
from perdure_sim.explore.explorer import Scenario, run
from perdure_sim.faults.plan import FaultPlan
from perdure_sim.world.clock import START_MS
from perdure_sim.world.disks import memory_disk
from perdure_sim.world.world import World


@d.workflow
async def rounds(step: Step) -> None:
    for number in range(3):
        async with asyncio.timeout(86_400):
            await step.run_action(once(number))
        await step.sleep(30)


def test_permits_are_asked_for_though_a_timer_is_far_away() -> None:
    """A worker that lacks them polls, whatever else it waits for; so those who have them see it."""

    def script(world: World) -> None:
        world.start(rounds(), id="r")

    # The clock of w1 is ahead: it takes up what w0 ran before, which has the permit.
    plan = FaultPlan.parse("pd1:w1/turn#1=jump:1m")
    scenario = Scenario(name="rounds", definer=d, script=script, max_parallelism=1)
    found = run(scenario, plan, memory_disk)
    assert found.failure is None
    assert {call.process for call in found.world.calls} == {"w0", "w1"}
    ended_at = found.world.history.workflows["r"].state.ended_at
    assert ended_at is not None and ended_at - START_MS < 200_000


@pytest.mark.parametrize("number", range(7, 12))
def test_a_look_that_failed_is_made_again(number: int) -> None:
    """A worker that found no time to look for the dead does so later, though nobody wakes it."""

    def script(world: World) -> None:
        world.start(leaf(1), id="l")

    alone = Scenario(name="alone", definer=d, script=script, workers=1)
    plan = FaultPlan.parse(f"pd1:w0/collected#1=crash;w0/begin#{number}=busy")
    found = run(alone, plan, memory_disk)
    assert found.failure is None
    assert len(found.world.faults.fired) == 2

"""Plans that once showed a bug of the engine, each with what was wrong."""

from __future__ import annotations

from perdure.definitions import Definer
from perdure.runtime.contexts import MutationContext
from perdure.step import Step
from perdure_sim.disks import memory_disk
from perdure_sim.explore import Scenario, run
from perdure_sim.plan import FaultPlan
from perdure_sim.world import World

d = Definer()


@d.mutation
def take(ctx: MutationContext, n: int) -> int:
    return n


@d.workflow
async def short(step: Step) -> int:
    return await step.run_mutation(take(1))


def one_short(world: World) -> None:
    """One workflow of one step."""
    world.start(short(), id="s")


SHORT = Scenario(name="short", definer=d, script=one_short)


def test_a_burial_that_met_a_busy_store_is_tried_again() -> None:
    """Both workers found the dead one and a busy store, and did not look again for a while."""
    plan = FaultPlan.parse("pd1:w0/begin#9=busy;w0/decided#1=crash;w1/begin#4=busy")
    found = run(SHORT, plan, memory_disk)
    assert found.failure is None
    assert found.world.faults.fired != []

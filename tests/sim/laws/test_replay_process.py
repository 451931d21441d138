"""Replay in another process finds what depends on the process: the order of a set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.sim.scenes import SCENARIOS

from perdure.definitions import Call, Definer
from perdure.runtime.contexts import MutationContext
from perdure.step import Step
from perdure.store.base import Loaded
from perdure_sim.explore.explorer import Scenario, run
from perdure_sim.faults.plan import FaultPlan
from perdure_sim.laws import replay_process
from perdure_sim.laws.replay_process import ReplayProcess, recorded
from perdure_sim.laws.replaying import ReplayDiffers
from perdure_sim.world.disks import memory_disk
from perdure_sim.world.world import World

HERE = f"{__name__}:d"
d = Definer()

#: So many that two orders of them are never the same by chance.
TOWNS = [f"town {number}" for number in range(20)]


@d.mutation
def visit(ctx: MutationContext, town: str) -> str:
    return town


@d.workflow
async def in_order(step: Step) -> int:
    for town in sorted(set(TOWNS)):
        await step.run_mutation(visit(town))
    return len(TOWNS)


@d.workflow
async def in_any_order(step: Step) -> int:
    for town in set(TOWNS):
        await step.run_mutation(visit(town))
    return len(TOWNS)


@d.workflow
async def talkative(step: Step) -> int:
    print("{}")  # noqa: T201  This is what the test is about.
    await step.run_mutation(visit("town 1"))
    return 1


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[ReplayProcess]:
    with ReplayProcess() as process:
        yield process


def journals(call: Call[Any]) -> list[Loaded]:
    """What a workflow leaves, when each law of replay holds in this process."""

    def script(world: World) -> None:
        world.start(call, id="w")

    found = run(Scenario(name="w", definer=d, script=script), FaultPlan(), memory_disk)
    assert found.failure is None
    return recorded(found.world.history)


def test_the_order_of_a_set_is_found_out(elsewhere: ReplayProcess) -> None:
    """It is the same for as long as a process lives, so that no replay in this one can differ."""
    with pytest.raises(
        ReplayDiffers, match=r"PYTHONHASHSEED=\d: w, 21 facts: (.|\n)*mutation visit"
    ):
        elsewhere.check(HERE, journals(in_any_order()))


def test_a_sorted_set_is_no_matter(elsewhere: ReplayProcess) -> None:
    """What does not depend on the process is replayed in any other, and again after a failure."""
    elsewhere.check(HERE, journals(in_order()))


@pytest.mark.parametrize("plan", ["", "pd1:w0/commit#5=lost_ack;w0/decided#3=crash"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_scenarios_are_replayed_elsewhere(
    elsewhere: ReplayProcess, scenario: Scenario, plan: str
) -> None:
    """All of their journals: with races, timers, children, failures and events."""
    found = run(scenario, FaultPlan.parse(plan), memory_disk)
    assert found.failure is None
    loaded = recorded(found.world.history)
    assert loaded != []
    elsewhere.check("tests.sim.scenes:d", loaded)


def test_a_journal_arrives_whole(elsewhere: ReplayProcess) -> None:
    """One that lacks its last step is found out there: the handler asks for it again."""
    (whole,) = journals(in_order())
    with pytest.raises(ReplayDiffers, match="visit"):
        elsewhere.check(HERE, [without_last_step(whole)])


def without_last_step(loaded: Loaded) -> Loaded:
    return Loaded(state=loaded.state, steps=loaded.steps[:-1], ticks=loaded.ticks)


def test_what_handlers_print_is_no_answer(elsewhere: ReplayProcess) -> None:
    """It goes to the standard error of the child."""
    elsewhere.check(HERE, journals(talkative()))


@pytest.mark.parametrize(
    ("definer", "why"),
    [
        ("tests.sim.nowhere:d", "No module named 'tests.sim.nowhere'"),
        ("tests.sim.scenes:nobody", "has no attribute 'nobody'"),
    ],
)
def test_definitions_that_cannot_be_imported_are_told(
    elsewhere: ReplayProcess, definer: str, why: str
) -> None:
    """The child lives on."""
    with pytest.raises(RuntimeError, match=why):
        elsewhere.check(definer, [])
    elsewhere.check(HERE, [])


def test_a_child_ends_with_its_block() -> None:
    """It can be closed again, and answers nothing any more."""
    with ReplayProcess() as process:
        assert process.is_alive
    assert not process.is_alive
    process.close()
    with pytest.raises(RuntimeError, match="has ended"):
        process.check(HERE, [])


def test_a_child_that_dies_is_told() -> None:
    """Instead of waiting for its answer for ever."""
    with ReplayProcess() as process:
        process._child.kill()
        with pytest.raises(RuntimeError, match="has ended"):
            process.check(HERE, [])


def test_a_child_knows_that_it_is_one(elsewhere: ReplayProcess) -> None:
    """By this, a module that calls its tests when imported starts no child of the child."""
    assert not replay_process.IS_CHILD
    with pytest.raises(RuntimeError, match="IS_CHILD=True"):
        elsewhere.check("tests.sim.laws.tells_where_it_is:d", [])


def test_answers_come_in_turn_also_late(elsewhere: ReplayProcess) -> None:
    """It may be asked several times before anybody looks."""
    elsewhere.send(HERE, journals(in_any_order()))
    elsewhere.send(HERE, journals(in_order()))
    with pytest.raises(ReplayDiffers):
        elsewhere.receive(HERE)
    elsewhere.receive(HERE)
    assert elsewhere.has_answered


def test_answers_that_nobody_wants_get_into_nobodys_way(elsewhere: ReplayProcess) -> None:
    """After an interrupted test, say."""
    elsewhere.send(HERE, journals(in_any_order()))
    elsewhere.forget()
    elsewhere.send(HERE, journals(in_order()))
    elsewhere.receive(HERE)
    elsewhere.send(HERE, journals(in_any_order()))
    elsewhere.check(HERE, journals(in_order()))

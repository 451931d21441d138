"""Planted bugs: that each fits the source, that it is planted, and that it is taken out again."""

from __future__ import annotations

import attrs
import pytest
from tests.sim.again import AGAIN, GONE
from tests.sim.corners import CORNERS
from tests.sim.edges import EDGES
from tests.sim.families import TOGETHER
from tests.sim.scenes import RACE, SCENARIOS
from tests.sim.spreads import SPREADS
from tests.sim.tickets import TICKETS
from tests.sim.watched import WATCHED

from perdure.core import workflow
from perdure.runtime import actor
from perdure_sim.explore.explorer import run
from perdure_sim.faults.plan import FaultPlan
from perdure_sim.mutants.patching import Mutant, MutantError, changed, planted
from perdure_sim.mutants.planted import MUTANTS
from perdure_sim.world.disks import memory_disk

SCENES = (*SCENARIOS, *CORNERS, *EDGES, *TOGETHER, *SPREADS, TICKETS, AGAIN, GONE, WATCHED)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_mutant_fits_the_source(mutant: Mutant) -> None:
    """What it changes occurs once in its function, and what comes of it can be compiled."""
    assert changed(mutant).__name__ == mutant.target.rpartition(":")[2].rpartition(".")[2]


def test_names_are_told_apart() -> None:
    """The scoreboard lists them by name, and there are enough of each sort."""
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 80
    assert len({mutant.sort for mutant in MUTANTS}) >= 20


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_mutant_is_found(mutant: Mutant) -> None:
    """By the plan that found it first, with the same law; and without the bug it finds nothing."""
    name, plan, law = mutant.found_by
    scenario = next(each for each in SCENES if each.name == name)
    with planted(mutant):
        failure = run(scenario, FaultPlan.parse(plan), memory_disk).failure
    assert type(failure).__name__ == law
    assert run(scenario, FaultPlan.parse(plan), memory_disk).failure is None


def test_a_mutant_that_no_longer_fits_is_told() -> None:
    """With the piece of source that is missed."""
    stale = attrs.evolve(MUTANTS[0], old="no such thing")
    with pytest.raises(MutantError, match="'no such thing' occurs 0 times"):
        changed(stale)


def test_a_mutant_is_planted_for_a_block_wherever_its_function_is_known() -> None:
    """A run finds it; after the block the function is what it was, and the run finds nothing."""
    mutant = next(each for each in MUTANTS if each.name.startswith("the last outcome"))
    before, (_, plan, law) = workflow.next_fact.__code__, mutant.found_by
    with planted(mutant):
        assert workflow.next_fact.__code__ is not before
        assert vars(actor)["next_fact"] is workflow.next_fact
        failure = run(RACE, FaultPlan.parse(plan), memory_disk).failure
        assert type(failure).__name__ == law
    assert workflow.next_fact.__code__ is before
    assert run(RACE, FaultPlan.parse(plan), memory_disk).failure is None

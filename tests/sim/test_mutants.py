"""Planted bugs: that each fits the source, that it is planted, and that it is taken out again."""

from __future__ import annotations

import attrs
import pytest
from tests.sim.scenes import EVENTS

from perdure.core import transition, workflow
from perdure_sim.disks import memory_disk
from perdure_sim.explore import run
from perdure_sim.mutants import MUTANTS, Mutant, MutantError, changed, planted
from perdure_sim.plan import FaultPlan


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_mutant_fits_the_source(mutant: Mutant) -> None:
    """What it changes occurs once in its function, and what comes of it can be compiled."""
    assert changed(mutant).__name__ == mutant.target.rpartition(":")[2].rpartition(".")[2]


def test_names_are_told_apart() -> None:
    """The scoreboard lists them by name."""
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_a_mutant_that_no_longer_fits_is_told() -> None:
    """With the piece of source that is missed."""
    stale = attrs.evolve(MUTANTS[0], old="no such thing")
    with pytest.raises(MutantError, match="'no such thing' occurs 0 times"):
        changed(stale)


def test_a_mutant_is_planted_for_a_block_wherever_its_function_is_known() -> None:
    """A run finds it; after the block the function is what it was, and the run finds nothing."""
    mutant = next(each for each in MUTANTS if each.name.startswith("of two events"))
    before = workflow.match_events
    with planted(mutant):
        assert workflow.match_events is not before
        assert vars(transition)["match_events"] is workflow.match_events
        failure = run(EVENTS, FaultPlan(), memory_disk).failure
        assert type(failure).__name__ == "EventsOutOfOrder"
    assert workflow.match_events is before
    assert vars(transition)["match_events"] is before
    assert run(EVENTS, FaultPlan(), memory_disk).failure is None

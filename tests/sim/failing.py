"""Runs that fail, for the tests of what people are told of them: scenarios with a planted bug."""

from __future__ import annotations

from functools import cache

from tests.sim.scenes import SCENARIOS

from perdure_sim.explore.explorer import Explorer, Run
from perdure_sim.faults.plan import FaultPlan
from perdure_sim.mutants.patching import planted
from perdure_sim.mutants.planted import MUTANTS
from perdure_sim.world.disks import memory_disk


@cache
def _explorer(scenario: str) -> Explorer:
    explorer = Explorer(next(each for each in SCENARIOS if each.name == scenario), memory_disk)
    assert explorer.begin().failure is None
    return explorer


def run_of(scenario: str, plan: str = "", *, detail: bool = True) -> Run:
    """A run of that scenario, with nothing planted."""
    return _explorer(scenario).try_plan(FaultPlan.parse(plan), detail=detail)


def failed(scenario: str, plan: str, mutant: str, *, detail: bool = True) -> Run:
    """A run that fails by the mutant whose name begins so."""
    explorer = _explorer(scenario)
    with planted(next(each for each in MUTANTS if each.name.startswith(mutant))):
        run = explorer.try_plan(FaultPlan.parse(plan), detail=detail)
    assert run.failure is not None, f"{mutant}: {scenario} under {plan} did not fail"
    return run

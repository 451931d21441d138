"""Each scenario of the simulator's tests under plans with several faults, which a sweep has not."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests.cases import silence
from tests.sim.scenes import SCENARIOS

from perdure_sim.explore.explorer import Explorer
from perdure_sim.faults.strategies import plans
from perdure_sim.world.disks import memory_disk

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}

#: Kinds of faults that may change how a scenario ends, and why that is right.
CHANGES = {
    "reference": {"raises"},  # two bursts use the five attempts up
}


@cache
def explored(name: str) -> Explorer:
    """A scenario's census, and how it ends without faults."""
    explorer = Explorer(BY_NAME[name], memory_disk)
    begun = explorer.begin()
    assert begun.failure is None
    return explorer


@pytest.mark.parametrize("name", BY_NAME)
@given(data=st.data())
@settings(max_examples=100)
def test_no_plan_changes_how_a_scenario_ends(name: str, data: st.DataObject) -> None:
    """No law is broken, and outcomes and effects are those of a run without faults."""
    explorer = explored(name)
    plan = data.draw(plans(explorer.census, without=CHANGES.get(name, ())), label="plan")
    with silence():
        found = explorer.try_plan(plan)
    if found.failure is not None:
        raise found.failure

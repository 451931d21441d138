"""Trees of children and tasks that meet, with single faults all over the run."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
from tests.sim.families import TOGETHER

from perdure_sim.explore.explorer import Explorer, Scenario, run, single_faults, spread
from perdure_sim.faults.plan import FaultPlan
from perdure_sim.world.disks import memory_disk, sqlite_disk

#: Plans of each scenario: all of them are some thousands, which take minutes.
PLANS_MAX = 60


@pytest.mark.parametrize("scenario", TOGETHER, ids=lambda each: each.name)
def test_no_single_fault_changes_how_it_ends(scenario: Scenario) -> None:
    """The first, the last and the middle one of each kind; and all laws hold."""
    explorer = Explorer(scenario, memory_disk)
    assert explorer.begin().failure is None
    fired = 0
    for fault in islice(spread(single_faults(explorer.census), explorer.census), PLANS_MAX):
        found = explorer.try_plan(FaultPlan([fault]))
        assert found.failure is None, str(found.plan)
        fired += len(found.world.faults.fired)
    assert fired > PLANS_MAX / 2


@pytest.mark.parametrize("scenario", TOGETHER, ids=lambda each: each.name)
def test_it_ends_the_same_on_sqlite(scenario: Scenario, tmp_path: Path) -> None:
    """Without faults, as on the model store."""
    files = iter(range(9))
    found = run(scenario, FaultPlan(), lambda: sqlite_disk(tmp_path / f"{next(files)}.db"))
    assert found.failure is None
    assert found.outcomes == run(scenario, FaultPlan(), memory_disk).outcomes

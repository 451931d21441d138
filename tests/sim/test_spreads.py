"""Fan-outs over several simulated workers: who runs what, and with what going wrong."""

from __future__ import annotations

from collections import Counter

import pytest
from tests.sim.spreads import SPREADS

from perdure_sim.explore.explorer import Scenario, run
from perdure_sim.faults.plan import FaultPlan
from perdure_sim.world.disks import memory_disk


@pytest.mark.parametrize("scenario", SPREADS, ids=lambda scenario: scenario.name)
def test_every_worker_runs_some_steps(scenario: Scenario) -> None:
    """And the workflow's owner learns of it."""
    found = run(scenario, FaultPlan(), memory_disk)
    assert found.failure is None
    counts = Counter(call.process for call in found.world.calls)
    assert len(counts) == scenario.workers
    assert "the owner learns that another worker has taken a step" in found.reached

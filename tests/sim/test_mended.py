"""A blocked workflow is restarted, and something goes wrong while it is."""

from __future__ import annotations

import pytest
from tests.sim.edges import MENDED

from perdure.core.outcomes import Canceled
from perdure_sim.explore.explorer import run
from perdure_sim.faults.plan import FaultPlan
from perdure_sim.world.disks import memory_disk


@pytest.mark.parametrize(
    "plan",
    [
        "",
        "pd1:c0/commit#2=lost_ack",
        "pd1:c0/commit#2=lost_ack*3",
        "pd1:c0/told#2=crash",
        "pd1:c0/request#2=twice",
        "pd1:w0/commit#5=lost_ack",
        "pd1:w0/committed#6=crash",
    ],
)
def test_it_goes_on_and_has_one_end(plan: str) -> None:
    """Its step is run anew, once; what it had in between is an end for the journal alone, in the
    commit of the restart, and its `on_complete` hears of the last one only."""
    found = run(MENDED, FaultPlan.parse(plan), memory_disk)
    assert found.failure is None
    assert len(found.world.faults.fired) == len(found.plan)
    assert found.world.history.workflows["m"].past == [Canceled()]

"""Plans that once found a fault, of the engine or of a law: each is stood now.

Where the engine passes its sites otherwise, a plan may come to miss the moment that it is about;
what it found has a test of its own beside the code, where that was possible.
"""

from __future__ import annotations

import pytest
from tests.sim.corners import CORNERS
from tests.sim.edges import EDGES
from tests.sim.scenes import SCENARIOS
from tests.sim.spreads import SPREADS
from tests.sim.watched import WATCHED

from perdure_sim.explore.explorer import run
from perdure_sim.faults.plan import FaultPlan
from perdure_sim.world.disks import memory_disk

SCENES = (*SCENARIOS, *EDGES, *CORNERS, *SPREADS, WATCHED)

FOUND = {
    "an outcome after its deadline counted": ("hasty", "pd1:w0/carried_out#3=pause:2s"),
    "an event was told again": ("bell", "pd1:w0/commit#8=lost_ack"),
    "a permit in use was given back": ("shares", "pd1:w1/commit#9=lost_ack*3"),
    "an attempt was not told of the cancel": ("cancels", "pd1:w0/turn#14=evict"),
    "an event after its deadline counted": (
        "hasty",
        "pd1:w0/decided#4=zombie:40s;w1/read#22=stall:2s;world/cache#1=none",
    ),
    "a wait began with the turn that saw the failure": (
        "stranger",
        "pd1:toil/attempt#2=raises;w0/read#10=stall:2s",
    ),
    "a workflow was started, and its worker did not know": (
        "values",
        "pd1:c0/request#1=elsewhere;w0/commit#4=lost_ack",
    ),
    "an attempt that a zombie began was counted as that of the worker after it": (
        "shares",
        "pd1:w0/committed#3=zombie:40s;w1/decided#1=zombie:40s",
    ),
    "an event came after its time-out, and won in a turn of its own": (
        "late",
        "pd1:c0/commit#2=disk_full:1m;w0/decided#4=crash;w1/decided#4=crash",
    ),
    "an attempt in doubt kept its permit when its workflow was taken up again": (
        "hasty",
        "pd1:c0/commit#2=disk_full:1m;h/touched#7=rerun;w0/boot#1=crash*3;world/permits#1=one",
    ),
    "a step was taken before it was ready, by a clock that was read too soon": (
        "crawling",
        "pd1:w1/begin#7=stall:2s",
    ),
    "what ran after a restart that the power took back was held against its next key": (
        "leaders",
        "pd1:c0/told#3=crash;leader/touched#3=rerun;w0/commit#18=power_loss:50ms",
    ),
    "an outcome that waited for the store lost against its time-out, after a take-over": (
        "fans",
        "pd1:w0/begin#18=read_only:1m;w0/committed#16=zombie:40s",
    ),
    "an outage with many watchers was taken for a spin": (
        "watched",
        "pd1:w0/begin#12=read_only:1m;w1/boot#1=crash",
    ),
    "one whose code does not fit was restarted after its cancel, and nobody ended it": (
        "poison",
        "pd1:bad/touched#12=restart;bad/touched#14=rerun",
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_is_mended(name: str) -> None:
    """All laws hold, as without the faults."""
    scene, plan = FOUND[name]
    scenario = next(each for each in SCENES if each.name == scene)
    found = run(scenario, FaultPlan.parse(plan), memory_disk)
    assert found.failure is None
    assert len(found.world.faults.fired) == len(found.plan)

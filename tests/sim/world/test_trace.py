"""What is noted of a run: little by default, all with detail, and one fingerprint of both."""

from __future__ import annotations

import pytest
from tests.sim.acting import d, told
from tests.sim.failing import failed, run_of

from perdure.runtime.contexts import ActionContext
from perdure_sim.explore.explorer import Run, Scenario, run
from perdure_sim.faults.plan import FaultPlan
from perdure_sim.report.telling import tell
from perdure_sim.world.actions import Stub
from perdure_sim.world.disks import memory_disk
from perdure_sim.world.trace import DETAIL_KINDS, Event, Trace
from perdure_sim.world.world import World

#: A plan with a bit of everything, and what of it is noted.
BUSY = (
    "pd1:w0/commit#5=lost_ack;w0/decided#4=crash;w1/collected#2=pause:2s;w1/turn#2=jump:1m;"
    "w1/decided#3=zombie:40s;charge/attempt#2=raises"
)


def kinds(found: Run) -> set[str]:
    return {event.kind for event in found.world.trace.events}


@pytest.mark.parametrize("scenario", ["reference", "transfers", "events", "fans", "trees"])
@pytest.mark.parametrize("plan", ["", BUSY, "pd1:c0/begin#1=busy;w0/begin#3=crash"])
def test_the_fingerprint_is_the_same_with_detail(scenario: str, plan: str) -> None:
    """To look at a run does not change it, and what is noted for people does not count."""
    plain, detailed = (run_of(scenario, plan, detail=detail) for detail in (False, True))
    assert plain.world.trace.digest() == detailed.world.trace.digest()
    assert plain.outcomes == detailed.outcomes
    assert len(plain.world.trace.events) < len(detailed.world.trace.events)


def test_without_detail_nothing_is_noted_of_what_goes_on_inside() -> None:
    """Runs are made by the ten thousand: they keep commits, attempts, boots and crashes."""
    assert not kinds(run_of("reference", BUSY, detail=False)) & DETAIL_KINDS


def test_with_detail_everything_is_noted() -> None:
    """Faults, turns and their borders, wake-ups, pauses, timers, ends of attempts, clocks, logs."""
    everything = kinds(run_of("reference", BUSY)) & DETAIL_KINDS
    assert everything == DETAIL_KINDS - {"request", "power"}


def test_what_actions_ask_of_the_engine_is_noted() -> None:
    """An action that sends an event to its own workflow."""

    async def act(ctx: ActionContext, n: int, text: str) -> str:
        return await ctx.send_event("news", workflow_id=ctx.workflow_id, value=n)

    def script(world: World) -> None:
        world.start(told(), id="x")

    scenario = Scenario(name="told", definer=d, script=script, stubs={"act": Stub(fn=act)})
    found = run(scenario, FaultPlan(), memory_disk, detail=True)
    assert found.failure is None
    assert "x: an action sends event news" in [line.text for line in tell(found.world.trace.events)]


def test_a_fault_stands_in_the_lane_of_who_it_befalls() -> None:
    """One of an action: in that of the process that runs it."""
    found = run_of("reference", BUSY)
    faults = [event for event in found.world.trace.events if event.kind == "fault"]
    lanes = {str(event.about[0]): event.lane for event in faults}
    assert lanes["w0/commit#5=lost_ack"] == "w0"
    assert lanes["w1/collected#2=pause:2s"] == "w1"
    assert lanes["charge/attempt#2=raises"] in ("w0", "w1")
    assert sorted(lanes) == sorted(map(str, found.world.faults.fired))


def test_a_power_cut_is_noted() -> None:
    """With the time since when all that was stored is lost."""
    found = run_of("reference", "pd1:w0/commit#6=power_loss:50ms")
    (cut,) = [event for event in found.world.trace.events if event.kind == "power"]
    assert cut.at - cut.about == 50


def test_settings_that_a_plan_makes_small_are_noted_first() -> None:
    """They hold for the whole run, so in the lane of the world."""
    first = run_of("reference", "pd1:world/batch#1=one").world.trace.events[0]
    assert [first.lane, first.kind, str(first.about[0])] == ["world", "fault", "world/batch#1=one"]


def test_a_law_that_is_broken_is_noted_where_it_is() -> None:
    """In both modes, right after the commit that breaks it, in the lane of its process."""
    for detail in (False, True):
        found = failed("race", "pd1:once/attempt#1=raises", "one attempt too", detail=detail)
        events = found.world.trace.events
        place = next(i for i, event in enumerate(events) if event.kind == "broken")
        assert events[place].about is found.failure
        assert [event.kind for event in events[place - 1 : place + 1]] == ["commit", "broken"]
        assert events[place].lane == events[place - 1].lane


def test_what_the_engine_logs_is_noted() -> None:
    """With the error, and where it was raised: it is often the nearest to what is wrong."""
    found = failed("reference", "pd1:w0/commit#8=fails*3", "after a failed commit")
    logged = [str(event.about) for event in found.world.trace.events if event.kind == "log"]
    assert any("the journal of a dropped handler was not loaded" in text for text in logged)
    assert any("in _replay: assert journal is not None" in text for text in logged)


def test_a_fingerprint_is_of_what_happened_when_and_to_whom() -> None:
    """Each of the four parts of an event counts; what is only for people does not."""
    events = [
        Event(2_000_000_000_000, "w0", "boot"),
        Event(2_000_000_000_001, "w0", "boot"),
        Event(2_000_000_000_000, "w1", "boot"),
        Event(2_000_000_000_000, "w0", "crash"),
        Event(2_000_000_000_000, "w0", "boot", "again"),
    ]
    digests = []
    for event in events:
        trace = Trace()
        trace.add(event.at, event.lane, event.kind, event.about)
        trace.add(event.at, event.lane, "turn")
        digests.append(trace.digest())
    assert len(set(digests)) == len(events)
    alone = Trace()
    alone.add(2_000_000_000_000, "w0", "boot")
    assert alone.digest() == digests[0]

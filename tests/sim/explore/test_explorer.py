"""Runs of whole scenarios: what faults do, that they change no result, and that runs repeat."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from tests.sim.scenes import REFERENCE, SCENARIOS, d, forever, order

from perdure.core.outcomes import Succeeded
from perdure_sim.explore.explorer import (
    Explorer,
    ResultChanged,
    Scenario,
    Stuck,
    random_plan,
    run,
    single_faults,
)
from perdure_sim.faults.plan import FaultPlan
from perdure_sim.faults.sites import KINDS
from perdure_sim.stores.sqlite_memory import SqliteMemory
from perdure_sim.world.disks import Disk, memory_disk, sqlite_disk
from perdure_sim.world.world import World

OUTCOMES = {"o0": Succeeded("1"), "o1": Succeeded("4")}

MakeDisk = Callable[[], Disk]


@pytest.fixture(params=["memory", "sqlite in memory", "sqlite in files"])
def make_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeDisk]:
    match request.param:
        case "memory":
            yield memory_disk
        case "sqlite in memory":
            disks = SqliteMemory()
            yield disks
            disks.close()
        case _:
            names = itertools.count()
            yield lambda: sqlite_disk(tmp_path / f"{next(names)}.db")


def test_without_faults_the_scenario_gives_what_it_should(make_disk: MakeDisk) -> None:
    """Virtual time passes, ten seconds until the events and five of sleep, in no real time."""
    found = run(REFERENCE, FaultPlan(), make_disk)
    assert (found.failure, found.outcomes) == (None, OUTCOMES)
    ends = [known.state.ended_at for known in found.world.history.workflows.values()]
    assert [end - 2_000_000_000_000 for end in ends if end is not None] == [15_020, 15_020]


@pytest.mark.parametrize(
    "plan",
    [
        "",
        "pd1:w0/commit#5=crash_after",
        "pd1:c0/commit#1=lost_ack;charge/attempt#2=raises*2;w0/committed#3=pause:2s",
    ],
)
def test_a_run_is_a_function_of_its_plan(make_disk: MakeDisk, plan: str) -> None:
    """Twice the same plan, twice the same trace."""
    first, second = (run(REFERENCE, FaultPlan.parse(plan), make_disk) for _ in range(2))
    assert first.failure is None
    assert first.world.trace.digest() == second.world.trace.digest()


@pytest.mark.parametrize(
    "plan",
    [
        "pd1:w0/commit#5=crash_before",
        "pd1:w0/commit#5=lost_ack*3",
        "pd1:w0/begin#4=busy*3",
        "pd1:w0/read#6=fails",
        "pd1:w0/decided#2=crash",
        "pd1:w0/told#3=pause:40s",
        "pd1:w0/turn#4=evict",
        "pd1:w0/turn#4=jump:1m",
        "pd1:w0/wake#2=lost",
        "pd1:c0/commit#1=crash_after",
        "pd1:charge/attempt#2=raises*3",
        "pd1:charge/attempt#1=slow:90s",
        "pd1:w0/collected#3=crash;w0/begin#12=crash;w1/commit#3=crash_before",
    ],
)
def test_a_fault_costs_time_and_changes_nothing(make_disk: MakeDisk, plan: str) -> None:
    """Each fires, and the workflows end as without it."""
    found = run(REFERENCE, FaultPlan.parse(plan), make_disk, OUTCOMES)
    assert found.failure is None
    assert found.world.faults.fired == sorted(FaultPlan.parse(plan).faults, key=_order(found.world))
    assert found.outcomes == OUTCOMES


def _order(world: World) -> Callable[[object], int]:
    return lambda fault: [str(each) for each in world.faults.fired].index(str(fault))


def test_a_crash_in_the_middle_of_a_turn_loses_what_was_not_committed(make_disk: MakeDisk) -> None:
    """The process is dead for half a second, and the other one takes over before that."""
    found = run(REFERENCE, FaultPlan.parse("pd1:w0/decided#2=crash"), make_disk, OUTCOMES)
    assert found.failure is None
    lanes = [(e.lane, e.kind) for e in found.world.trace.events if e.kind in ("boot", "crash")]
    assert lanes == [
        ("w0", "boot"),
        ("w1", "boot"),
        ("c0", "boot"),
        ("w0", "crash"),
        ("w0", "boot"),
    ]
    owners = [call.process for call in found.world.calls]
    assert "w1" in owners


def test_what_may_change_a_result_is_allowed_to(make_disk: MakeDisk) -> None:
    """An action that fails for good fails its workflow, and that is no alarm."""
    plan = FaultPlan.parse("pd1:charge/attempt#1=raises_for_good")
    found = run(REFERENCE, plan, make_disk, OUTCOMES)
    assert found.failure is None
    assert found.outcomes["o0"] != OUTCOMES["o0"]


def test_a_workflow_that_cannot_end_is_an_alarm(make_disk: MakeDisk) -> None:
    """It says what the workflow waits for; unless the scenario says that it may wait."""

    def script(world: World) -> None:
        world.start(order(0), id="o0")
        world.start(order(1), id="o1", run_after=10**8)

    lonely = Scenario(name="lonely", definer=d, script=script)
    found = run(lonely, FaultPlan(), make_disk, {})
    assert isinstance(found.failure, ResultChanged)  # the event timed out: both have ended

    def waits(world: World) -> None:
        world.start(forever(), id="f")

    found = run(Scenario(name="f", definer=d, script=waits), FaultPlan(), make_disk)
    assert isinstance(found.failure, Stuck)
    assert "waits for   step 0 (wait for never): asked for at +0.020s" in str(found.failure)
    patient = Scenario(name="f", definer=d, script=waits, may_wait=frozenset("f"))
    assert run(patient, FaultPlan(), make_disk).failure is None


# --- plans --------------------------------------------------------------------------------------


def test_the_sweep_has_each_fault_of_each_place_once() -> None:
    """Half as often again as the site was passed; what is passed once is tried once."""
    faults = list(single_faults({("w0", "wake"): 4, ("w1", "wake"): 1, ("w0", "unknown"): 9}))
    places = [(fault.actor, fault.occurrence) for fault in faults if fault.kind == "lost"]
    assert places == [("w0", 1), ("w1", 1), *(("w0", n) for n in range(2, 7))]
    assert len(faults) == 7 * len(KINDS["wake"])


def test_random_plans_come_from_the_seed_alone() -> None:
    """And they name places that a run has."""
    census = {("w0", "commit"): 4, ("w0", "nowhere"): 3, ("charge", "attempt"): 2}
    first, second = ([random_plan(Random(5), census, 8) for _ in range(9)] for _ in range(2))
    assert first == second
    sites = {(fault.actor, fault.site) for plan in first for fault in plan}
    assert sites == {("w0", "commit"), ("charge", "attempt")}


def test_a_failure_is_shrunk_to_what_causes_it(make_disk: MakeDisk) -> None:
    """The faults that have nothing to do with it are left out, and bursts are cut."""

    def check(world: World) -> None:
        if sum(call.attempt == 2 for call in world.calls):
            raise AssertionError("a second attempt")

    scenario = Scenario(
        name="picky", definer=d, script=REFERENCE.script, stubs=REFERENCE.stubs, check=check
    )
    explorer = Explorer(scenario, make_disk)
    assert explorer.begin().failure is None
    plan = "pd1:c0/wake#1=lost;charge/attempt#2=raises*3;w0/begin#4=busy;w0/turn#3=evict"
    failed = explorer.try_plan(FaultPlan.parse(plan))
    assert str(failed.failure) == "a second attempt"
    assert str(explorer.shrink(failed).plan) == "pd1:charge/attempt#2=raises"


def test_the_first_faults_of_the_sweep_find_nothing_wrong(make_disk: MakeDisk) -> None:
    """The engine stands each fault at the first passing of each site."""
    explorer = Explorer(REFERENCE, make_disk)
    explorer.begin()
    faults = [fault for fault in single_faults(explorer.census) if fault.occurrence == 1]
    if make_disk is not memory_disk:
        faults = faults[::8]  # the others are slower
    runs = [explorer.try_plan(FaultPlan([fault])) for fault in faults]
    wrong = [(str(found.plan), repr(found.failure)) for found in runs if found.failure is not None]
    assert wrong == []


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_both_stores_give_the_same(scenario: Scenario, tmp_path: Path) -> None:
    """Outcomes and journals are equal, without faults and with one."""
    for number, text in enumerate(("", "pd1:w0/commit#6=crash_after")):
        path = tmp_path / f"{number}.db"
        runs = [
            run(scenario, FaultPlan.parse(text), make)
            for make in (memory_disk, lambda path=path: sqlite_disk(path))
        ]
        assert [found.failure for found in runs] == [None, None]
        one, other = (journals(found.world) for found in runs)
        assert one == other
        assert runs[0].outcomes == runs[1].outcomes


def journals(world: World) -> dict[str, list[object]]:
    """Of each step what was asked, what came of it and where; not the traceback of a failure."""
    return {
        workflow_id: [
            (r.command, r.outcome and r.outcome.kind, r.asked_position, r.delivered_position)
            for r in known.steps.values()
        ]
        for workflow_id, known in world.history.workflows.items()
    }


def test_a_worker_that_is_taken_for_dead_begins_a_new_life() -> None:
    """It stood still for forty seconds; the other one has gone on, and nothing was done twice."""
    found = run(REFERENCE, FaultPlan.parse("pd1:w0/decided#2=zombie:40s"), memory_disk, OUTCOMES)
    assert found.failure is None
    assert [str(fault) for fault in found.world.faults.fired] == ["w0/decided#2=zombie:40s"]
    assert "w1" in {call.process for call in found.world.calls}

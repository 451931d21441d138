"""Plans that come to a run that was made before: they are found, and it is that very run."""

from __future__ import annotations

from random import Random

import pytest
from tests.sim.scenes import REFERENCE, SCENARIOS

from perdure_sim.explore.explorer import Explorer, Run, Scenario, random_plan, single_faults
from perdure_sim.explore.repeats import RUNS_MAX, Made, Repeats
from perdure_sim.faults.plan import FaultPlan
from perdure_sim.world.disks import memory_disk

CENSUS = {("w0", "commit"): 4, ("w0", "wake"): 2}


def made(plan: str, **more: int) -> Made:
    """A run in which all faults of a plan fired; `more`: sites of w0 that it passed more often."""
    census = {**CENSUS, **{("w0", site): count for site, count in more.items()}}
    return Made(frozenset(FaultPlan.parse(plan)), census, 100)


def made_in(found: Run) -> Made:
    """What is kept of a run."""
    faults = found.world.faults
    return Made(frozenset(faults.fired), faults.census, found.world.events)


@pytest.mark.parametrize(
    ("plan", "fired"),
    [
        ("", ""),
        ("pd1:w0/commit#5=fails", ""),
        ("pd1:w0/nowhere#1=fails", ""),
        ("pd1:w0/commit#4=fails", None),
        ("pd1:w0/commit#4=fails*3", None),
        ("pd1:w0/commit#2=fails", "pd1:w0/commit#2=fails"),
        ("pd1:w0/commit#2=fails;w0/commit#7=fails", "pd1:w0/commit#2=fails"),
        ("pd1:w0/commit#2=fails;w0/commit#6=fails", None),
        ("pd1:w0/commit#2=fails;w0/wake#1=lost", None),
        ("pd1:w0/commit#2=fails*2", None),
    ],
)
def test_a_plan_comes_to_the_run_in_which_its_other_faults_never_fire(
    plan: str, fired: str | None
) -> None:
    """One with a fault passes a site more often than one without."""
    repeats = Repeats()
    repeats.add(made(""))
    repeats.add(made("pd1:w0/commit#2=fails", commit=6))
    found = repeats.find(FaultPlan.parse(plan))
    assert (None if found is None else found.fired) == (
        None if fired is None else frozenset(FaultPlan.parse(fired))
    )


def test_no_more_runs_are_kept_than_there_is_room_for() -> None:
    """Nor those with many faults, which are hardly ever drawn again."""
    repeats = Repeats()
    many = "pd1:w0/commit#1=fails;w0/commit#2=fails;w0/commit#3=fails"
    repeats.add(made(many))
    assert repeats.find(FaultPlan.parse(many)) is None
    for number in range(1, RUNS_MAX + 2):
        repeats.add(made(f"pd1:w0/begin#{number}=busy"))
    kept = [f"pd1:w0/begin#{number}=busy" for number in (RUNS_MAX, RUNS_MAX + 1)]
    assert [repeats.find(FaultPlan.parse(plan)) is None for plan in kept] == [False, True]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_run_that_is_left_out_is_the_one_that_was_made(scenario: Scenario) -> None:
    """Made all the same, it has the same trace and the same end."""
    explorer, repeats, rng = Explorer(scenario, memory_disk), Repeats(), Random(3)
    runs = [explorer.begin()]
    digests = {frozenset(runs[0].world.faults.fired): runs[0].world.trace.digest()}
    repeats.add(made_in(runs[0]))
    singles = Random(5).sample(list(single_faults(explorer.census)), 12)
    plans = [FaultPlan([fault]) for fault in singles]
    plans += [random_plan(rng, explorer.census, 4) for _ in range(12)]
    # Each once more, with a fault beyond what any of these runs passes.
    late = FaultPlan.parse("pd1:w0/commit#900=fails;w1/turn#901=crash")
    plans += [FaultPlan([*plan, *late]) for plan in plans]
    count = 0
    for plan in plans:
        before = repeats.find(plan)
        found = explorer.try_plan(plan)
        assert found.failure is None
        fired, digest = frozenset(found.world.faults.fired), found.world.trace.digest()
        if before is not None:
            count += 1
            assert (before.fired, before.events) == (fired, found.world.events)
            assert digests[before.fired] == digest
        digests[fired] = digest
        repeats.add(made_in(found))
    assert count > 12


def test_of_random_plans_many_come_to_a_run_that_was_made() -> None:
    """That is what it is good for."""
    explorer, repeats, rng = Explorer(REFERENCE, memory_disk), Repeats(), Random(1)
    repeats.add(made_in(explorer.begin()))
    count = 0
    for _ in range(100):
        plan = random_plan(rng, explorer.census, 8)
        if repeats.find(plan) is not None:
            count += 1
        else:
            repeats.add(made_in(explorer.try_plan(plan)))
    assert count >= 10

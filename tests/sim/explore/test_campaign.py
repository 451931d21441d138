"""Sweeps and soaks of tiny scenarios: what is run, what is counted, what is found."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import attrs
import pytest
from tests.sim import tiny

from perdure.runtime.clock import RealClock
from perdure_sim.explore.campaign import Campaign, begin, sweep_plans
from perdure_sim.explore.explorer import Scenario, count_pairs, pairs, single_faults, spread
from perdure_sim.explore.parallel import Board
from perdure_sim.explore.portions import Failure, Stores
from perdure_sim.explore.targets import Place
from perdure_sim.faults.plan import Fault, FaultPlan

CENSUS = {("w0", "wake"): 4, ("w1", "wake"): 1, ("w0", "told"): 2}


def campaign(
    *names: str, jobs: int = 0, keeps_going: bool = True, stores: Stores = Stores()
) -> Campaign:
    """Of the tiny scenarios of these names, begun."""
    scenes: dict[Place, Scenario] = {
        Place(f"tests/sim/tiny.py:{name}"): getattr(tiny, name) for name in names
    }
    made = Campaign(
        scenes=scenes, stores=stores, jobs=jobs, keeps_going=keeps_going, clock=RealClock()
    )
    list(made.begin())
    return made


def found(work: Iterable[list[Failure]]) -> list[Failure]:
    """All failures of some work, which is done to its end."""
    return [failure for failures in work for failure in failures]


# --- plans ----------------------------------------------------------------------------------------


def test_any_first_part_of_a_spread_is_spread_over_the_run() -> None:
    """First, last and middle passing come first; none is lost."""
    faults = list(single_faults(CENSUS))
    ordered = spread(faults, CENSUS)
    assert sorted(ordered) == sorted(faults)
    lost = [each.occurrence for each in ordered if (each.actor, each.kind) == ("w0", "lost")]
    assert lost == [1, 4, 2, 3, 5, 6]
    first = [(each.actor, each.site) for each in ordered[: len(CENSUS)]]
    assert sorted(first) == sorted(CENSUS)


def test_pairs_are_all_pairs_at_two_places() -> None:
    """Each once, and as many as are counted."""
    plans = [str(plan) for plan in pairs(CENSUS)]
    assert len(plans) == len(set(plans)) == count_pairs(CENSUS)
    faults = list(single_faults(CENSUS))

    def place(fault: Fault) -> tuple[str, str, int]:
        return fault.actor, fault.site, fault.occurrence

    two = [pair for pair in itertools.combinations(faults, 2) if place(pair[0]) != place(pair[1])]
    assert len(two) == len(plans)


def test_the_plans_of_a_sweep_end_where_they_shall() -> None:
    """Singles first; of the pairs so many as there is room for, from the first to the last."""
    plans = [FaultPlan([fault]) for fault in single_faults(CENSUS)]
    singles, both = len(plans), count_pairs(CENSUS)
    assert [len(plan) for plan in sweep_plans(plans, CENSUS, False, None)] == [1] * singles
    assert [len(plan) for plan in sweep_plans(plans, CENSUS, True, 5)] == [1] * 5
    cut = [str(plan) for plan in sweep_plans(plans, CENSUS, True, singles + 10)]
    assert len(cut) == singles + 10
    all_pairs = [str(plan) for plan in pairs(CENSUS)]
    assert all_pairs.index(cut[-1]) >= both * 0.9
    assert len(list(sweep_plans(plans, CENSUS, True, None))) == singles + both


# --- sweeps ---------------------------------------------------------------------------------------


def test_a_sweep_runs_each_fault_and_counts_what_fired() -> None:
    """Of a scenario that nothing is wrong with."""
    made = campaign("TINY")
    assert found(made.sweep()) == []
    (begun,) = made.begun.values()
    singles = list(single_faults(begun.census))
    assert made.total.runs == 2 + len(singles)
    assert made.total.planned.total() == len(singles)
    assert 0 < made.total.fired.total() < len(singles)
    assert made.swept["tiny"].done == made.swept["tiny"].possible == len(singles)
    # One that is beyond the last passing cannot fire: it is the run without faults once more.
    beyond = [each for each in singles if each.occurrence > begun.census[each.actor, each.site]]
    assert made.total.same == len(beyond) > 0
    assert made.never_fired == []


def test_a_budget_cuts_a_sweep() -> None:
    """The same runs, however many events they take; and the kinds that it left out are named."""
    made = campaign("TINY", "OTHER")
    events = next(iter(made.begun.values())).events
    found(made.sweep(budget=7 * events))
    assert [(each.planned, each.done) for each in made.swept.values()] == [(7, 7), (7, 7)]
    assert "commit=crash_after" in made.never_fired
    assert not made.board.is_stopped


def test_the_first_failure_ends_a_sweep_unless_it_goes_on() -> None:
    """A law that is broken often is shrunk and told of once, and counted."""
    short = campaign("NO_CRASH", keeps_going=False)
    (failure,) = found(short.sweep())
    assert (failure.scenario, failure.law, failure.size) == ("no crash", "AssertionError", 1)
    assert short.board.is_stopped
    long = campaign("NO_CRASH")
    assert [each.law for each in found(long.sweep())] == ["AssertionError"]
    assert long.total.broken["no crash", "AssertionError"] > 5
    assert long.total.runs > short.total.runs


def test_what_fails_without_faults_is_not_swept() -> None:
    """It is told of, and the others are swept."""
    made = campaign("NEVER", "TINY")
    assert [(each.scenario, each.plan) for each in made.total.failures] == [("never", "")]
    found(made.sweep(max_runs=3))
    assert list(made.swept) == ["tiny"]


def test_sqlite_files_are_removed(tmp_path: Path) -> None:
    """Each when its run has ended."""
    made = campaign("TINY", stores=Stores("sqlite", tmp_path))
    assert found(made.sweep(max_runs=3)) == []
    assert made.total.runs == 5
    assert list(tmp_path.iterdir()) == []


# --- soaks ----------------------------------------------------------------------------------------


def test_a_soak_makes_so_many_runs_and_repeats_a_share_of_them() -> None:
    """Of both scenarios; twice the same run gives twice the same digest."""
    made = campaign("TINY", "OTHER")
    assert found(made.soak(seed=1, most=3, runs=50, double=0.2)) == []
    assert (made.total.repeated, made.total.runs) == (10, 2 * 2 + 50 + 10)
    assert 0 < made.total.same <= 40  # the ten that are repeated are made, whatever they come to


def test_a_soak_ends_with_enough_repeated_runs() -> None:
    """Whatever the share of the runs is that is repeated."""
    made = campaign("TINY")
    found(made.soak(seed=1, most=3, double=0.5, double_runs=7))
    assert made.total.repeated == 7


def test_a_soak_shrinks_what_it_finds() -> None:
    """To the one fault that it takes."""
    made = campaign("NO_CRASH", keeps_going=False)
    (failure,) = found(made.soak(seed=2, most=8, seconds=60))
    assert failure.size == 1
    assert "=crash" in failure.plan


def test_the_plans_of_a_soak_come_from_the_seed_alone() -> None:
    """And not from how many processes there are: two share the work, and repeat it in turn."""
    totals = []
    for seed, jobs in ((1, 0), (1, 2), (2, 0)):
        made = campaign("TINY", "OTHER", jobs=jobs)
        assert found(made.soak(seed=seed, most=3, runs=60, double=0.1)) == []
        assert made.total.repeated == 6
        totals.append((made.total.planned, made.total.fired, made.total.events))
    assert totals[0] == totals[1]
    assert totals[0] != totals[2]


def test_a_process_that_dies_is_told_of_with_its_plan() -> None:
    """Another one does the rest."""
    made = campaign("DYING", jobs=1)
    failures = found(made.sweep(max_runs=60))
    assert [(each.scenario, each.law) for each in failures] == [("dying", "ProcessLost")]
    assert failures[0].message == "its process ended with exit code 7"
    assert "=crash" in failures[0].plan
    assert made.total.broken["dying", "ProcessLost"] >= 1


def test_another_digest_in_another_process_is_told_of() -> None:
    """A run without faults that goes otherwise there than here: nothing more is run of it."""
    made = campaign("TINY")
    (place,) = made.begun
    made.begun[place] = attrs.evolve(made.begun[place], digest="0")
    (failure,) = found(made.sweep(max_runs=2))
    assert (failure.law, failure.plan) == ("DigestsDiffer", "")


@pytest.mark.parametrize(("name", "law"), [("TINY", None), ("NEVER", "AssertionError")])
def test_a_begin_gives_a_census_or_a_failure(name: str, law: str | None) -> None:
    """Never both."""
    begun, failure = begin(Place(name), getattr(tiny, name), Stores(), Board())
    assert (begun is None) == (law is not None)
    assert (failure and failure.law) == law

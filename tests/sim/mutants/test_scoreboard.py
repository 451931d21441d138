"""The scoreboard of planted bugs: what finds one, and what is said of one that nothing finds."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import pytest

from perdure.runtime.clock import RealClock
from perdure_sim.explore.parallel import Board
from perdure_sim.explore.portions import Failure, Stores
from perdure_sim.explore.targets import Place
from perdure_sim.mutants.patching import Mutant
from perdure_sim.mutants.planted import MUTANTS
from perdure_sim.mutants.scoreboard import (
    Finding,
    FoundBy,
    Portfolio,
    Score,
    Summary,
    summary,
    try_mutants,
)

EVENTS = Place("tests/sim/scenes.py:EVENTS")
TINY = Place("tests/sim/tiny.py:TINY")


def mutant(name: str) -> Mutant:
    """The planted bug of that name."""
    return next(each for each in MUTANTS if each.name == name)


#: Something that the tiny scenario does, and in whose place a test puts something else.
STAMP = Mutant(
    "a test's own",
    "test",
    "core.transition:_on_fact_delivered",
    "stamp = max(draft.stamp, draft.now)",
    "stamp = max(draft.stamp, draft.now)",
)


def stamp(code: str) -> Mutant:
    """A bug of a test's own: this is what its stamp is."""
    return attrs.evolve(STAMP, new=f"stamp = {code}")


def scores(
    mutants: Sequence[Mutant],
    places: Sequence[Place] = (TINY,),
    portfolio: Portfolio = Portfolio(budget=300, runs=10, run_seconds=0.3),
) -> list[Score]:
    """What comes of them, in one other process."""
    tried = try_mutants(
        mutants, places, Stores(), portfolio, jobs=1, board=Board(), clock=RealClock()
    )
    return [score for score in tried if score is not None]


def only(found: Sequence[Score]) -> Finding:
    """The one finding of the one mutant."""
    (score,) = found
    (finding,) = score.findings
    assert finding is not None
    return finding


def test_bugs_are_found_by_first_runs_and_by_the_sweep_and_shrunk() -> None:
    """Each by itself: what the first one did is gone when the second is planted."""
    events, taken_up = scores(
        [
            mutant("of two events the later one comes first"),
            mutant("the dead are not buried"),
        ],
        [TINY, EVENTS],
        Portfolio(budget=30_000, runs=0),
    )
    first, second = events.first, taken_up.first
    assert first is not None and second is not None
    assert (first.by, first.cases, first.failure.plan) == ("first runs", 3, "")
    assert (first.failure.scenario, first.failure.law) == ("events", "EventsOutOfOrder")
    assert (second.by, second.failure.size, second.soak_cases) == ("sweep", 1, 0)
    assert second.cases > 4
    assert not events.has_survived


def test_what_the_sweep_does_not_find_is_left_to_random_plans() -> None:
    """With each seed anew; the sweep is not counted twice."""
    name = "the dead are not buried"
    (score,) = scores([mutant(name)], [TINY], Portfolio(budget=0, runs=200, seeds=2))
    assert [each and each.by for each in score.findings] == ["soak", "soak"]
    assert [each and each.cases - each.soak_cases for each in score.findings] == [2, 2]


def test_a_bug_that_nothing_finds_has_survived() -> None:
    """It was tried in two processes, which gave the same."""
    harmless = mutant("of two events the later one comes first")
    (score,) = scores([harmless])
    assert score == Score(mutant=harmless, findings=(None,))
    assert score.has_survived


def test_a_bug_without_end_is_found() -> None:
    """The run is ended, and the next mutant has another process."""
    endless, next_one = scores(
        [stamp("sum(1 for _ in iter(int, 1))"), stamp("draft.now - 1 - 10**6")]
    )
    assert only([endless]).failure.law == "RunTooLong"
    assert only([next_one]).failure.law == "TimeWentBack"


def test_a_bug_that_kills_its_process_is_found() -> None:
    """And the plan that it died of is known."""
    dead = only(scores([stamp("__import__('os')._exit(9)")]))
    assert dead.failure.law == "ProcessLost"
    assert (dead.by, dead.failure.scenario, dead.cases) == ("first runs", "tiny", 1)


def test_a_bug_that_differs_from_process_to_process_is_found() -> None:
    """By making the same runs again in another one."""
    finding = only(scores([stamp("max(draft.stamp, draft.now - hash('x') % 1000)")]))
    assert (finding.by, finding.failure.law) == ("repeat", "DigestsDiffer")


def test_a_bug_that_cannot_be_planted_is_told() -> None:
    """The source has changed, or what is to be changed is gone: that is no success."""
    stale, gone = scores(
        [attrs.evolve(STAMP, old="no such thing"), attrs.evolve(STAMP, target="core.gone:f")]
    )
    assert stale.misfit is not None and "occurs 0 times" in stale.misfit
    assert gone.misfit is not None and "core.gone" in gone.misfit
    assert stale.has_survived and gone.has_survived


def test_one_that_was_stopped_has_not_survived() -> None:
    """Nothing is said of it."""
    board = Board()
    board.stop()
    tried = try_mutants(
        [STAMP], [TINY], Stores(), Portfolio(), jobs=1, board=board, clock=RealClock()
    )
    assert [score for score in tried if score is not None] == []
    assert not Score(mutant=STAMP, findings=(None,), was_stopped=True).has_survived


def finding(by: FoundBy, *, cases: int, soak_cases: int = 0, plan: str = "") -> Finding:
    """Made up."""
    failure = Failure(scenario="s", law="L", message="", plan=plan, first_plan=plan)
    return Finding(by=by, failure=failure, cases=cases, soak_cases=soak_cases, seconds=cases / 100)


def test_the_summary_counts_trials() -> None:
    """A trial is a mutant with a seed; one that does not fit is a trial that found nothing."""
    one = "pd1:w0/turn#1=crash"
    found = [
        Score(mutant=STAMP, findings=(finding("first runs", cases=1),) * 2),
        Score(mutant=STAMP, findings=(None, finding("soak", cases=900, soak_cases=101, plan=one))),
        Score(mutant=STAMP, findings=(finding("sweep", cases=30, plan=one),) * 2),
        Score(mutant=STAMP, misfit="no"),
        Score(mutant=STAMP, findings=(None,), was_stopped=True),
    ]
    assert summary(found) == Summary(
        trials=7,
        found=5,
        found_soon=4,
        median_size=1,
        median_cases=30,
        median_seconds=0.3,
    )


@pytest.mark.parametrize("found", [[], [Score(mutant=STAMP, findings=(None,))]])
def test_where_nothing_was_found_there_is_no_median(found: list[Score]) -> None:
    """Rather than a number that means nothing."""
    assert summary(found).median_seconds is None

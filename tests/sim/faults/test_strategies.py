"""Plans from Hypothesis: what is drawn, and what a failing one is shrunk to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import find, given, settings

from perdure_sim.explore.explorer import single_faults
from perdure_sim.faults.plan import FaultPlan
from perdure_sim.faults.strategies import plans

CENSUS = {("w0", "commit"): 4, ("w1", "wake"): 1, ("w1", "nowhere"): 7, ("charge", "attempt"): 2}

#: Every single fault that a run with this census can meet; more for what is passed only once.
POSSIBLE = {str(fault) for fault in single_faults(CENSUS)} | {
    "w1/wake#1=lost",
    "w1/wake#1=late:5s",
}


@given(plan=plans(CENSUS, most=5))
def test_plans_have_what_the_sweep_has(plan: FaultPlan) -> None:
    """Sites that were passed, half as often again, with the kinds that there are."""
    assert {str(fault) for fault in plan} <= POSSIBLE
    assert len(plan) <= 5


def test_each_fault_can_be_drawn() -> None:
    """Nothing that the sweep tries is out of reach."""
    drawn: set[str] = set()

    @given(plan=plans(CENSUS))
    @settings(max_examples=1500)
    def draw(plan: FaultPlan) -> None:
        drawn.update(map(str, plan))

    draw()
    assert drawn == POSSIBLE


@given(plan=plans(CENSUS, without=["crash_before", "raises"]))
def test_kinds_can_be_left_out(plan: FaultPlan) -> None:
    """Such as those that change results."""
    assert not {fault.kind for fault in plan} & {"crash_before", "raises"}


@pytest.mark.parametrize("census", [{}, {("w0", "nowhere"): 3}])
def test_where_nothing_can_go_wrong_nothing_does(census: dict[tuple[str, str], int]) -> None:
    """The strategy is there all the same."""
    assert find(plans(census), lambda plan: True) == FaultPlan()


@pytest.mark.parametrize(
    ("is_found", "shrunk"),
    [
        (lambda plan: True, ""),
        (lambda plan: any(fault.kind == "fails" for fault in plan), "pd1:w0/commit#1=fails"),
        (lambda plan: any(fault.burst == 3 for fault in plan), "pd1:charge/attempt#1=raises*3"),
        (
            lambda plan: any(f.site == "commit" and f.occurrence > 2 for f in plan),
            "pd1:w0/commit#3=fails",
        ),
        (lambda plan: len(plan) == 2, "pd1:charge/attempt#1=raises;charge/attempt#2=raises"),
    ],
)
def test_what_is_found_is_shrunk(is_found: Callable[[FaultPlan], bool], shrunk: str) -> None:
    """Fewer faults, no bursts, and early ones, as far as it is still found."""
    assert str(_shrunk(is_found)) == shrunk


def _shrunk(is_found: Callable[[FaultPlan], bool]) -> FaultPlan:
    return find(plans(CENSUS), is_found, settings=settings(max_examples=2_000))


def test_a_failure_shows_the_plan_as_it_is_written() -> None:
    """And not the choices that it was made of."""

    @given(plan=plans(CENSUS))
    def fails(plan: FaultPlan) -> None:
        assert not plan

    with pytest.raises(AssertionError) as failure:
        fails()
    assert "plan=FaultPlan('pd1:charge/attempt#1=raises')" in str(failure.value.__notes__)

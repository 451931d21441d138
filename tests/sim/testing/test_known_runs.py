"""Runs that were made already are not made again; and only those."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from tests.sim.testing.bank import manager, napping

from perdure_sim import Simulation, simulate
from perdure_sim.faults.plan import FaultPlan
from perdure_sim.testing.known_runs import KnownRuns

#: How often a run passed the sites that it passed.
CENSUS = {("w0", "turn"): 3, ("w0", "commit"): 2}


def known(plan: str, arguments: dict[str, Any] | None = None) -> KnownRuns:
    runs = KnownRuns()
    runs.add({"amount": 1} if arguments is None else arguments, FaultPlan.parse(plan), CENSUS)
    return runs


@pytest.mark.parametrize(
    ("first", "second", "is_known"),
    [
        ("", "", True),
        ("", "pd1:w0/turn#4=crash", True),  # it had only three
        ("", "pd1:w1/turn#1=crash", True),  # it had none
        ("", "pd1:w0/turn#3=crash", False),
        ("pd1:w0/turn#3=crash", "", False),
        ("pd1:w0/turn#3=crash", "pd1:w0/turn#3=crash;w0/commit#3=fails", True),
        ("pd1:w0/turn#3=crash;w0/turn#9=crash", "pd1:w0/turn#3=crash", True),
        ("pd1:w0/turn#3=crash", "pd1:w0/turn#3=evict", False),
        ("pd1:w0/turn#3=crash", "pd1:w0/turn#3=crash*2", False),
    ],
)
def test_what_the_run_never_comes_to_makes_no_other(
    first: str, second: str, is_known: bool
) -> None:
    """Only faults at passings that there were do."""
    assert known(first).has({"amount": 1}, FaultPlan.parse(second)) is is_known


@pytest.mark.parametrize("other", [{"amount": 2}, {"amount": True}, {"amount": 1.0}, {}])
def test_other_arguments_make_another_run(other: dict[str, Any]) -> None:
    """Also those that are equal to them, and something else."""
    assert not known("").has(other, FaultPlan())


def test_values_that_are_equal_to_nothing_are_never_known() -> None:
    """What cannot be compared is run again."""

    class Array:
        def __eq__(self, other: object) -> bool:
            raise ValueError("which of them?")

        __hash__ = None  # type: ignore[assignment]

        def __repr__(self) -> str:
            return "array"

    runs = known("", {"amount": Array()})
    assert not runs.has({"amount": Array()}, FaultPlan())


def test_a_test_is_called_once_for_each_run_that_can_differ() -> None:
    """The run without faults is made twice, on purpose; then no more, however often it is drawn."""
    calls = []

    @simulate(manager, store="memory", max_examples=30, sweep=False, faults=(), on=st.booleans())
    def test(sim: Simulation, on: bool) -> None:
        calls.append(on)
        sim.start(napping(1))

    test()  # type: ignore[call-arg]
    assert sorted(calls) == [False, False, True, True]

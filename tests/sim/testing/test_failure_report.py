"""What the report of a failed test adds to that of its run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from tests.sim.testing import bank
from tests.sim.testing.bank import manager

from perdure import WorkflowFailed
from perdure_sim import ALL, Simulation, simulate
from perdure_sim.testing.failure_report import text_of


def report_under(faults: Iterable[str]) -> str:
    """Of a test that says that a workflow succeeds, and with what."""

    @simulate(manager, store="memory", faults=faults)
    def test(sim: Simulation) -> None:
        sim.stub("look_up", returns=["x", "y"])
        run = sim.start(bank.asking("x"))
        sim.settle()
        assert run.value == "x"

    made: Any = test
    with pytest.raises((AssertionError, WorkflowFailed)):
        made()
    trial = made.simulation
    (failure,) = trial.failures.values()
    try:
        return text_of(trial, failure)
    finally:
        trial.close()


def test_a_step_that_fails_for_good_is_explained() -> None:
    """Whether that is the workflow's business is for the author to say; the report says how."""
    text = report_under(ALL & {"raises_for_good"})
    assert "look_up/attempt#1=raises_for_good" in text
    assert "That look_up fails for good is what a bank does that says no" in text
    assert 'faults=ALL - {"raises_for_good"}' in text


def test_the_advice_is_for_nothing_else() -> None:
    """The worker dies, and the next attempt returns another value."""
    text = report_under(["report=crash"])
    assert "look_up/report#1=crash" in text
    assert "for good" not in text

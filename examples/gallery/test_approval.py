"""A claim is paid if, and only if, an approval has reached it."""

from __future__ import annotations

from approval import (
    create_tables,
    decision,
    manager,
    reimburse,
    reimburse_by_the_clock,
    reimburse_or_forget,
    remind,
)
from catching import caught
from hypothesis import strategies as st

from perdure.definitions import Workflow
from perdure_sim import Simulation, simulate


def decide(sim: Simulation, workflow: Workflow[[int], str], approves: bool) -> None:
    sim.stub(remind, returns=None)
    run = sim.start(workflow(7))
    sim.after("0s..8d", lambda: sim.send_event(decision, workflow_id=run.id, value=approves))
    sim.settle()
    heard = [each.value for each in run.steps if each.kind == "event" and each.value is not None]
    paid = sim.db.execute("select claim from payments").fetchall()
    assert paid == ([(7,)] if heard == [True] else [])


@simulate(manager, setup=create_tables, approves=st.booleans())
def test_what_is_approved_is_paid(sim: Simulation, approves: bool) -> None:
    """And what has come too late, or is refused, is not."""
    decide(sim, reimburse, approves)


def test_a_lost_approval_is_caught() -> None:
    """It takes an approval after the reminder: a choice of time, no fault."""

    @simulate(manager, setup=create_tables, approves=st.booleans())
    def test(sim: Simulation, approves: bool) -> None:
        decide(sim, reimburse_or_forget, approves)

    found = caught(test)
    assert found.law == "AssertionError"
    assert [each.partition("=")[0] for each in found.faults] == ["client/after#1"]


def test_the_wall_clock_is_caught() -> None:
    """In a helper, where reading the workflow's own code does not show it."""

    @simulate(manager, setup=create_tables, approves=st.booleans())
    def test(sim: Simulation, approves: bool) -> None:
        decide(sim, reimburse_by_the_clock, approves)

    found = caught(test)
    assert (found.law, found.faults) == ("NotRepeatable", ())
    assert "datetime.now" in found.message
    assert "approval.py" in found.message

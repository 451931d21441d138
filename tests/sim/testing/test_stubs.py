"""What stands in for an action in a simulation: values in turn, errors, functions, durations."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.sim.testing import bank
from tests.sim.testing.bank import Receipt, charge_card, run

from perdure import (
    ActionContext,
    Failed,
    ValidationError,
    WorkflowFailed,
    WorkflowManager,
)
from perdure_sim import (
    Simulation,
    run_simulation,
)


def test_stubs_take_turns() -> None:
    """Values, exceptions and functions; the last one stays."""

    def scenario(sim: Simulation) -> None:
        sim.stub("look_up", returns=[OSError("busy"), "a"])
        first = sim.start(bank.asking("x"))
        sim.settle()
        assert first.value == "a"
        assert [call.attempt for call in sim.calls("look_up")] == [1, 2]
        assert len({call.idempotency_key for call in sim.calls("look_up")}) == 1
        assert isinstance(sim.calls("look_up")[0].outcome, Failed)
        sim.stub("look_up", call=lambda ctx, name, limit: f"{name}{limit}")
        second = sim.start(bank.asking("y"))
        sim.settle()
        assert second.value == "y7"
        sim.stub("look_up", raises=OSError("gone"))
        third = sim.start(bank.asking("z"))
        sim.settle()
        assert third.error is not None
        assert "gone" in third.error.message
        with pytest.raises(WorkflowFailed, match="gone"):
            _ = third.value

    run(scenario)


def test_an_action_that_is_not_stubbed_runs() -> None:
    """With its time, if the test says so; a `def` too."""

    def scenario(sim: Simulation) -> None:
        sim.stub("look_up", takes="10s")
        found = sim.start(bank.asking("x"))
        sim.settle()
        assert found.value == "x 7"
        assert sim.calls("look_up")[0].arguments == {"name": "x", "limit": 7}

    assert run(scenario).duration > timedelta(seconds=10)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"returns": 1, "raises": OSError()}, "give one of"),
        ({"returns": []}, "empty list"),
        ({"raises": "no"}, "give an exception"),
        ({"call": 3}, "give a function"),
        ({"takes": "soon"}, "takes="),
    ],
)
def test_a_stub_that_makes_no_sense(options: dict[str, Any], error: str) -> None:
    """Refused when it is made."""

    def scenario(sim: Simulation) -> None:
        with pytest.raises((TypeError, ValueError), match=error):
            sim.stub(charge_card, **options)
        with pytest.raises(TypeError, match="no action; the manager has: charge_card, look_up"):
            sim.stub("debit")

    run(scenario)


def test_a_stub_returns_what_the_action_may_return() -> None:
    """Else the action would fail each time, and nothing of the rest be tested."""

    def scenario(sim: Simulation) -> None:
        for wrong in (None, [Receipt("r"), 7]):
            with pytest.raises(ValidationError, match="stub of charge_card: its result: Expected"):
                sim.stub(charge_card, returns=wrong)
        sim.stub(charge_card, returns=[OSError(), Receipt("r")])

    run(scenario)


def test_a_list_that_is_meant_as_a_whole_is_told_apart() -> None:
    """Its items are nothing that the action may return, and the list is."""
    manager = WorkflowManager("lists.db")

    @manager.action
    async def names(ctx: ActionContext) -> list[str]:
        return []

    def scenario(sim: Simulation) -> None:
        with pytest.raises(ValidationError, match=r"to return this list, write returns=\[\[…\]\]"):
            sim.stub(names, returns=["Ann", "Bob"])
        with pytest.raises(ValidationError, match=r"at \$: 7$"):
            sim.stub(names, returns=[7])
        sim.stub(names, returns=[["Ann", "Bob"]])

    assert run_simulation(manager, scenario).failure is None


def test_a_stub_raises_the_same_each_time() -> None:
    """One exception, raised again and again, would carry all the tracebacks that it ever had."""
    texts: list[str] = []

    def scenario(sim: Simulation) -> None:
        sim.stub("look_up", raises=OSError("gone"))
        sim.start(bank.asking("x"))
        sim.settle()
        for call in sim.calls("look_up"):
            assert isinstance(call.outcome, Failed)
            texts.append(call.outcome.error.traceback)

    run(scenario)
    assert len(texts) > 1
    assert len(set(texts)) == 1

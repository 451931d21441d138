"""What a workflow does after something has failed does not fail for good as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from perdure import ActionContext, RetryPolicy, Step, StepFailed, WorkflowFailed, WorkflowManager
from perdure_sim import Simulation, run_simulation, simulate

manager = WorkflowManager("remedies.db")
TWICE = RetryPolicy(max_attempts=2, initial_backoff=0.1)


@manager.action(retry=TWICE)
async def charge(ctx: ActionContext) -> str:
    return "charged"


@manager.action(retry=TWICE)
async def ship(ctx: ActionContext) -> str:
    return "shipped"


@manager.action(retry=TWICE)
async def refund(ctx: ActionContext) -> str:
    return "refunded"


@manager.action
async def refund_once(ctx: ActionContext) -> str:
    return "refunded"


@manager.workflow
async def order(step: Step) -> str:
    try:
        await step.run_action(charge())
        return await step.run_action(ship())
    except StepFailed:
        return await step.run_action(refund())


@manager.workflow
async def hasty_order(step: Step) -> str:
    try:
        await step.run_action(charge())
        return await step.run_action(ship())
    except StepFailed:
        return await step.run_action(refund_once())


@manager.workflow
async def giving_back(step: Step) -> str:
    return await step.run_action(refund())


@manager.workflow
async def order_of_two(step: Step) -> str:
    try:
        return await step.run_action(ship())
    except StepFailed:
        return await step.run_workflow(giving_back())


def play(call: Callable[[], Any], plan: str) -> tuple[Any, list[int]]:
    """How the workflow ends under this plan, and the numbers of the attempts of its refund."""
    ends: list[Any] = []

    def scenario(sim: Simulation) -> None:
        run = sim.start(call())
        sim.settle()
        ends.append((run.status, [made.attempt for made in sim.calls(refund)]))

    failure = run_simulation(manager, scenario, plan).failure
    assert failure is None
    end: tuple[Any, list[int]] = ends[-1]
    return end


@pytest.mark.parametrize(
    ("call", "plan", "attempts"),
    [
        # It is tried again, as often as it may be, and then left alone.
        (order, "pd1:ship/attempt#1=raises_for_good;refund/attempt#1=raises*2", 2),
        (order, "pd1:ship/attempt#1=raises_for_good;refund/attempt#1=raises_for_good", 1),
        (order, "pd1:charge/attempt#1=raises*2;refund/attempt#1=raises_for_good", 1),
        # Its parent's step is what has failed.
        (order_of_two, "pd1:ship/attempt#1=raises_for_good;refund/attempt#1=raises_for_good", 1),
    ],
)
def test_a_remedy_does_not_fail_for_good(call: Callable[[], Any], plan: str, attempts: int) -> None:
    """However the plan has it; the plan says the same of all that comes later."""
    status, made = play(call, plan)
    assert status.value == "refunded"
    assert made == [*range(1, attempts + 1)]


@pytest.mark.parametrize(
    ("call", "plan"),
    [
        (giving_back, "pd1:refund/attempt#1=raises_for_good"),
        (giving_back, "pd1:refund/attempt#1=raises*2"),
        # No remedy that is tried once only.
        (hasty_order, "pd1:ship/attempt#1=raises_for_good;refund_once/attempt#1=raises"),
    ],
)
def test_all_else_fails_for_good(call: Callable[[], Any], plan: str) -> None:
    """Where nothing has failed before, and where there is one try, which is lost as any is."""
    status, _ = play(call, plan)
    assert status.kind == "failed"


@simulate(manager)
def right(sim: Simulation) -> None:
    run = sim.start(order())
    sim.settle()
    assert run.value in ("shipped", "refunded")


@simulate(manager)
def wrong(sim: Simulation) -> None:
    run = sim.start(hasty_order())
    sim.settle()
    assert run.value in ("shipped", "refunded")


def test_a_compensation_passes() -> None:
    """Under all faults that users get."""
    right()  # type: ignore[call-arg]


def test_one_that_is_tried_once_does_not() -> None:
    """It takes two faults: what is to be compensated, and a worker that dies with the remedy."""
    with pytest.raises(WorkflowFailed) as caught:
        wrong()  # type: ignore[call-arg]
    assert "refund_once" in "".join(getattr(caught.value, "__notes__", ())) + str(caught.value)

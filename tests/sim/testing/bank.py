"""The application that the tests of `simulate` test: transfers between two rows of a ledger."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import attrs

from perdure import (
    ActionContext,
    MutationContext,
    RetryPolicy,
    Step,
    StepFailed,
    WorkflowManager,
    define_event,
)
from perdure_sim import Simulation, Trace, run_simulation

manager = WorkflowManager("bank.db", retry_actions_by_default=True)
approval = define_event("approval", bool)


@attrs.frozen
class Receipt:
    """What a charge gives."""

    id: str


@manager.mutation
def debit(ctx: MutationContext, amount: int) -> None:
    ctx.db.execute("insert into ledger values (?)", (-amount,))


@manager.mutation
def credit(ctx: MutationContext, amount: int) -> None:
    ctx.db.execute("insert into ledger values (?)", (amount,))


@manager.action
async def charge_card(ctx: ActionContext, amount: int) -> Receipt:
    raise AssertionError("tests stub it")


@manager.action(retry=RetryPolicy(max_attempts=2))
def look_up(ctx: ActionContext, name: str, *, limit: int = 3) -> str:
    return f"{name} {limit}"


@manager.workflow
async def transfer(step: Step, amount: int) -> str:
    """Both rows, or none."""
    try:
        await step.run_action(charge_card(amount))
        if not await step.await_event(approval, timeout=3600):
            return "refused"
    except (StepFailed, TimeoutError):
        return "given up"
    await step.run_mutation(debit(amount))
    await step.run_mutation(credit(amount))
    return "done"


@manager.workflow
async def hasty(step: Step, amount: int) -> str:
    """Takes the money before it is sure that it can be given."""
    await step.run_mutation(debit(amount))
    await step.run_action(charge_card(amount))
    await step.await_event(approval, timeout=60)
    await step.run_mutation(credit(amount))
    return "done"


@manager.workflow
async def asking(step: Step, name: str) -> str:
    return await step.run_action(look_up(name, limit=7))


@manager.workflow
async def listening(step: Step) -> list[int]:
    return [await step.await_event("word", id=None) for _ in range(3)]


@manager.workflow
async def napping(step: Step, seconds: int) -> int:
    await step.sleep(seconds)
    return seconds


def create_tables(db: sqlite3.Connection) -> None:
    """Where the rows are."""
    db.execute("create table ledger (amount integer)")


def rows(sim: Simulation) -> int:
    """How many there are."""
    (count,) = sim.db.execute("select count(*) from ledger").fetchone()
    assert isinstance(count, int)
    return count


def run(
    scenario: Callable[[Simulation], object],
    plan: str = "",
    store: str = "memory",
    manager: WorkflowManager = manager,
) -> Trace:
    """The run; what it raises is raised."""
    trace = run_simulation(manager, scenario, plan, setup=create_tables, store=store)
    if trace.failure is not None:
        raise trace.failure
    return trace

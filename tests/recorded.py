"""Journals for tests: workflows that were run by some code, up to where they wait."""

# ruff: noqa: ASYNC110 - what is waited for happens in the engine's thread, and tells nobody

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perdure import (
    ActionContext,
    CheckReport,
    CheckViolation,
    MutationContext,
    Step,
    Workflow,
    WorkflowJournal,
    WorkflowManager,
    define_event,
)

decision = define_event("decision", str)

Define = Callable[[WorkflowManager], Any]


def manager_of(define: Define, path: Path | str = ":memory:") -> WorkflowManager:
    """A manager with the definitions that `define` makes."""
    manager = WorkflowManager(str(path), durability="process")
    define(manager)
    return manager


def functions(manager: WorkflowManager) -> Any:
    """What the workflows below call."""

    @manager.mutation
    def note(ctx: MutationContext, text: str) -> str:
        return text

    @manager.action
    async def price(ctx: ActionContext, count: int) -> int:
        return 100 * count

    return note, price


def first_release(manager: WorkflowManager) -> None:
    """An order: a note, a price, a wait for a decision, and another note."""
    note, price = functions(manager)

    @manager.workflow
    async def order(step: Step, user: str, count: int = 1) -> str:
        await step.run_mutation(note(user))
        cents = await step.run_action(price(count))
        answer = await step.await_event(decision, timeout=1000)
        await step.run_mutation(note(f"{answer} {cents}"))
        return answer


def waits_first(manager: WorkflowManager) -> None:
    """A step was added before recorded ones."""
    note, price = functions(manager)

    @manager.workflow
    async def order(step: Step, user: str, count: int = 1) -> str:
        await step.run_mutation(note("new"))
        await step.run_mutation(note(user))
        await step.run_action(price(count))
        return await step.await_event(decision)


def nothing(manager: WorkflowManager) -> None:
    """The workflow is gone."""


def record(path: Path, *users: str, define: Define = first_release) -> list[str]:
    """Start an order for each user, and work until all wait; their ids are the users' names."""
    manager = manager_of(define, path)
    workflow = manager.registry.get("order")
    assert isinstance(workflow, Workflow)

    async def run() -> None:
        async with manager:
            for user in users:
                await manager.start(workflow(user), id=user)
                async with asyncio.timeout(30):
                    await wait_for_it(manager, user)

    asyncio.run(run())
    return list(users)


async def wait_for_it(manager: WorkflowManager, workflow_id: str) -> None:
    """Until all that is left of it is a wait for an event."""
    while not await is_waiting(manager, workflow_id):
        await asyncio.sleep(0)


async def is_waiting(manager: WorkflowManager, workflow_id: str) -> bool:
    """Whether all that is left of it is a wait for an event."""
    status = await manager.status(workflow_id)
    assert status.kind == "in_progress", status
    return [step.kind for step in status.running] == ["event"]


def journal_of(path: Path, workflow_id: str) -> WorkflowJournal:
    """The journal of a workflow, read from its store."""
    manager = WorkflowManager(str(path))

    async def read() -> WorkflowJournal:
        async with manager.client(access="read"):
            return await manager.journal(workflow_id)

    return asyncio.run(read())


def check(define: Define, path: Path, **options: Any) -> CheckReport:
    """Check the store against other code, opened to be read."""
    manager = manager_of(define, path)

    async def run() -> CheckReport:
        async with manager.client(access="read"):
            return await manager.check(**options)

    return asyncio.run(run())


def only(report: CheckReport) -> CheckViolation:
    """The violation of a report that has one."""
    (violation,) = report.violations
    assert not report.is_ok
    return violation

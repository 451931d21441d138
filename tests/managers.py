"""Managers for the tests of the public door: definitions that most of them can use.

Nothing here sleeps: a test waits for a result, with a timeout that only a bug reaches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from perdure import (
    ActionContext,
    MutationContext,
    QueryContext,
    RetryPolicy,
    Step,
    WorkflowManager,
    define_event,
)

#: Seconds after which a test has failed: far above what anything here takes.
LONG = 30

FAST = RetryPolicy(max_attempts=3, initial_backoff=0.001, jitter=False)
number_event = define_event("number", int)


def make(path: Path | str, **options: Any) -> WorkflowManager:
    return WorkflowManager(str(path), durability="process", **options)


def run(test: Callable[[WorkflowManager], Awaitable[Any]], manager: WorkflowManager) -> Any:
    """Run a test's coroutine inside an open manager."""

    async def main() -> Any:
        async with manager:
            return await test(manager)

    return asyncio.run(main())


def define(manager: WorkflowManager) -> None:
    @manager.mutation
    def put(ctx: MutationContext, text: str) -> int:
        ctx.db.execute("CREATE TABLE IF NOT EXISTS notes (text TEXT)")
        cursor = ctx.db.execute("INSERT INTO notes VALUES (?)", (text,))
        return int(cursor.lastrowid or 0)

    @manager.query
    def count(ctx: QueryContext) -> int:
        tables = ctx.db.execute("SELECT name FROM sqlite_master WHERE name = 'notes'").fetchall()
        return int(ctx.db.execute("SELECT count(*) FROM notes").fetchone()[0]) if tables else 0

    @manager.action
    async def double(ctx: ActionContext, n: int) -> int:
        return 2 * n

    @manager.action
    def double_in_thread(ctx: ActionContext, n: int) -> int:
        return 2 * n

    @manager.workflow
    async def everything(step: Step, n: int) -> list[int]:
        first = await step.run_action(double(n))
        second = await step.run_action(double_in_thread(first))
        await step.run_mutation(put("x"))
        await step.sleep(0.001)
        return [first, second, await step.run_query(count())]

    @manager.workflow
    async def add(step: Step) -> int:
        return await step.await_event(number_event) + await step.await_event(number_event)

    @manager.workflow
    async def wait(step: Step) -> None:
        await step.await_event("never")

    @manager.workflow
    async def fail(step: Step, text: str) -> None:
        raise ValueError(text)


def call(manager: WorkflowManager, name: str, *args: Any) -> Any:
    """A call of one of the manager's definitions, by name."""
    definition = manager.registry.get(name)
    assert definition is not None
    return definition(*args)

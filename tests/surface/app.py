"""An application with one definition of each kind, for the tests of the surface."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg

from perdure import (
    ActionContext,
    EventNotFound,
    InProgress,
    MutationContext,
    Outcome,
    QueryContext,
    Step,
    WorkflowManager,
    WorkflowNotFound,
    define_event,
)

#: Seconds after which something hangs.
LONG = 30

go = define_event("go", int)


class App:
    """A manager with one definition of each kind, and what its actions have been asked."""

    def __init__(self, address: str) -> None:
        self.address = address
        # What differs between the databases: the mark of a parameter, and the order of rows.
        mark, row = ("%s", "ctid") if self.is_postgres else ("?", "rowid")
        self.calls: list[tuple[Any, ...]] = []
        self.broken = True
        self.manager = manager = WorkflowManager(address, durability="process")

        @manager.mutation
        def note(ctx: MutationContext, text: str) -> str:
            ctx.db.execute("create table if not exists notes (text text)")
            ctx.db.execute(f"insert into notes values ({mark})", (text,))
            return text

        @manager.mutation
        def note_and_fail(ctx: MutationContext, text: str) -> None:
            ctx.db.execute(f"insert into notes values ({mark})", (text,))
            raise LookupError(text)

        @manager.query
        def notes(ctx: QueryContext) -> list[str]:
            return [text for (text,) in ctx.db.execute(f"select text from notes order by {row}")]

        @manager.mutation
        def ended(ctx: MutationContext, workflow_id: str, outcome: Outcome, context: str) -> None:
            ctx.db.execute("create table if not exists notes (text text)")
            text = f"{workflow_id} {outcome.kind} {context}"
            ctx.db.execute(f"insert into notes values ({mark})", (text,))

        @manager.mutation
        def ended_badly(ctx: MutationContext, workflow_id: str, outcome: Outcome) -> None:
            ctx.db.execute("create table if not exists notes (text text)")
            ctx.db.execute("insert into notes values ('never')")
            raise LookupError("no such thing")

        @manager.action
        async def ask(ctx: ActionContext, n: int) -> int:
            self.calls.append((n, ctx.attempt, ctx.idempotency_key))
            return 2 * n

        @manager.action
        async def break_if_broken(ctx: ActionContext) -> str:
            self.calls.append(("mended?", ctx.attempt, ctx.idempotency_key))
            if self.broken:
                raise OSError("broken")
            return "mended"

        self.note, self.note_and_fail, self.notes = note, note_and_fail, notes
        self.ended, self.ended_badly, self.ask = ended, ended_badly, ask
        self._define_workflows(ask, break_if_broken)

    @property
    def is_postgres(self) -> bool:
        """Whether the database is on a server."""
        return "://" in self.address

    def connect(self) -> Any:
        """A connection of the user's own."""
        return psycopg.connect(self.address) if self.is_postgres else sqlite3.connect(self.address)

    def _define_workflows(self, ask: Any, break_if_broken: Any) -> None:
        manager = self.manager

        @manager.workflow
        async def wait(step: Step, n: int = 0) -> int:
            return n + await step.await_event(go)

        @manager.workflow
        async def chain(step: Step, n: int) -> list[int]:
            first = await step.run_action(ask(n))
            second = await step.run_action(ask(first), name="second")
            return [first, second, await step.run_action(ask(second))]

        @manager.workflow
        async def fragile(step: Step) -> str:
            await step.run_action(ask(1))
            return await step.run_action(break_if_broken())

        @manager.workflow
        async def parent(step: Step, child_id: str) -> int:
            return 10 * await step.run_workflow(wait(1), workflow_id=child_id)

        @manager.workflow
        async def by_id(step: Step, event_id: str) -> Any:
            try:
                return await step.await_event(go, id=event_id)
            except EventNotFound as error:
                return f"EventNotFound {error}"

        self.wait, self.chain, self.fragile, self.parent = wait, chain, fragile, parent
        self.by_id = by_id


def play(app: App, script: Callable[[WorkflowManager], Awaitable[Any]]) -> Any:
    """Run a script while the manager is open, with a worker."""

    async def main() -> Any:
        async with app.manager, asyncio.timeout(LONG):
            return await script(app.manager)

    return asyncio.run(main())


async def waits_for(manager: WorkflowManager, workflow_id: str, *names: str) -> None:
    """Return as soon as these steps are open, and no others."""
    while True:
        try:
            status = await manager.status(workflow_id)
        except WorkflowNotFound:  # a child that is about to be started
            await asyncio.sleep(0)
            continue
        assert isinstance(status, InProgress), status
        if sorted(step.name for step in status.running) == sorted(names):
            return
        await asyncio.sleep(0)

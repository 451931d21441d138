"""An application that moves from an SQLite file to PostgreSQL, in the middle of its work."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg

from perdure import ActionContext, MutationContext, Step, WorkflowManager, define_event

go = define_event("go", int)


class App:
    """One application, on any store."""

    def __init__(self, store: str) -> None:
        manager = self.manager = WorkflowManager(store)
        mark = "?" if "://" not in store else "%s"

        @manager.mutation
        def note(ctx: MutationContext, text: str) -> None:
            ctx.db.execute(f"insert into notes values ({mark})", (text,))

        @manager.action
        async def twice(ctx: ActionContext, number: int) -> int:
            return 2 * number

        @manager.workflow
        async def child(step: Step, number: int) -> int:
            await step.run_mutation(note(f"child {number}"))
            return number + await step.await_event(go)

        @manager.workflow
        async def order(step: Step, number: int) -> list[int]:
            found = [await step.run_action(twice(number))]
            await asyncio.sleep(0.001)
            found.append(await step.run_workflow(child(number), workflow_id=f"child-{number}"))
            await step.run_mutation(note(f"order {number}"))
            return found

        @manager.workflow
        async def sleeper(step: Step) -> str:
            await step.sleep(timedelta(days=400))
            return "awake"

        self.order = order
        self.sleeper = sleeper


def make_file(found: Path) -> None:
    """A file with an ended workflow, one whose child waits for an event, and a sleeper."""
    with closing(sqlite3.connect(found)) as db:
        db.execute("create table notes (text)")
    app = App(str(found))

    async def work() -> None:
        async with app.manager as manager:
            await manager.start(app.order(1), id="one")
            await manager.start(app.order(2), id="two")
            await manager.start(app.sleeper(), id="asleep")
            while not await _waits(manager, "child-1") or not await _waits(manager, "child-2"):  # noqa: ASYNC110 - it works in its own thread
                await asyncio.sleep(0.005)
            await manager.send_event(go, workflow_id="child-1", value=10)
            assert await manager.result("one") == [2, 11]
            await manager.update_config(max_parallelism=7)

    asyncio.run(work())


async def _waits(manager: WorkflowManager, workflow_id: str) -> bool:
    steps: Any = ()
    if [info async for info in _infos(manager, workflow_id)]:
        steps = await manager.list_steps(workflow_id)
    return any(step.kind == "event" for step in steps)


async def _infos(manager: WorkflowManager, workflow_id: str) -> Any:
    for info in await manager.list_workflows():
        if info.workflow_id == workflow_id:
            yield info


def go_on(address: str) -> None:
    """What is left to do is done on the new store, by a worker there."""
    with psycopg.connect(address) as db:
        db.execute("create table notes (text text)")
    app = App(address)

    async def work() -> None:
        async with app.manager as manager:
            assert await manager.result("one") == [2, 11]
            await manager.send_event(go, workflow_id="child-2", value=20)
            assert await manager.result("two", timeout=30) == [4, 22]
            (asleep,) = [i for i in await manager.list_workflows() if i.workflow_id == "asleep"]
            assert asleep.status.kind == "in_progress"
            assert (await manager.config()).max_parallelism == 7
            # Numbers go on where they were: nothing is given twice.
            await manager.start(app.order(3), id="three")
            await manager.cancel("asleep")

    asyncio.run(work())
    with psycopg.connect(address) as db:
        found = db.execute("select text from notes where text like 'order %'").fetchall()
    assert found == [("order 2",)]  # the note of order 1 was written before, in the other database

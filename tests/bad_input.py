"""A manager for the tests of bad input, and how to count what it has stored."""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs

from perdure import (
    ActionContext,
    Limits,
    MutationContext,
    QueryContext,
    Step,
    WorkflowManager,
    define_event,
)

#: Seconds after which a test has failed: far above what anything here takes.
LONG = 30

number_event = define_event("number", int)
stranger = WorkflowManager("elsewhere.db")
NAIVE = datetime(2030, 1, 1)  # noqa: DTZ001 - the fault that is tested


@attrs.frozen
class User:
    name: str
    age: int = 0


@stranger.workflow
async def foreign(step: Step) -> None:
    """A workflow of another manager."""


Misuse = tuple[Callable[[Step, "App"], Any], str]


@attrs.frozen
class App:
    """A manager and its definitions, each test its own."""

    manager: WorkflowManager
    path: Path
    greet: Any
    wait: Any
    misuse: Any
    note: Any
    peek: Any
    produce: Any
    parent: Any


def make_app(path: Path, misuses: dict[str, Misuse]) -> App:
    """An app of its own. Its workflow `misuse` makes one of the mistakes."""
    manager = WorkflowManager(str(path), durability="process", limits=Limits(value_bytes=1000))

    @manager.workflow
    async def greet(step: Step, user: User, times: int = 1) -> str:
        return user.name * times

    @manager.workflow
    async def wait(step: Step, n: int = 0) -> int:
        return await step.await_event(number_event)

    @manager.mutation
    def note(ctx: MutationContext, text: str) -> int:
        return len(text)

    @manager.query
    def peek(ctx: QueryContext, text: str) -> int:
        return len(text)

    @manager.action
    async def produce(ctx: ActionContext, what: str) -> Any:
        return {"large": "x" * 2000, "nan": math.nan, "object": object(), "small": "x"}[what]

    @manager.workflow
    async def parent(step: Step, what: str) -> Any:
        return await step.run_action(produce(what))

    @manager.workflow
    async def misuse(step: Step, label: str) -> str:
        try:
            misuses[label][0](step, made)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "no error"

    made = App(manager, path, greet, wait, misuse, note, peek, produce, parent)
    return made


def rows(path: Path) -> dict[str, int]:
    """How many rows each of our tables has; a worker's own row is no result of a call."""
    with sqlite3.connect(path) as connection:
        names = [
            name
            for (name,) in connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'perdure_%'"
            )
        ]
        counts = {
            name: int(connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0])
            for name in names
            if name != "perdure_workers"
        }
    connection.close()
    return counts


def run(app: App, test: Callable[[], Awaitable[Any]], *, works: bool = False) -> Any:
    """Run a test's coroutine inside an open manager: a client, or one that works."""

    async def main() -> Any:
        async with app.manager if works else app.manager.client():
            return await test()

    return asyncio.run(main())

"""A workflow whose body a test gives, run to its end and then again over its journal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.managers import LONG, make

from perdure import ActionContext, MutationContext, Step, WorkflowManager


class App:
    """A manager over a file, and what bodies call."""

    def __init__(
        self, path: Path | str, body: Callable[[Step, App], Awaitable[Any]], **options: Any
    ) -> None:
        self.manager: WorkflowManager = make(path, **options)
        self.told: list[Any] = []
        manager = self.manager

        @manager.action
        async def echo(ctx: ActionContext, value: Any) -> Any:
            return value

        @manager.action
        async def hang(ctx: ActionContext) -> None:
            await asyncio.get_running_loop().create_future()

        @manager.action
        async def fail(ctx: ActionContext, text: str) -> None:
            raise OSError(text)

        @manager.mutation
        def poke(ctx: MutationContext, name: str, value: Any) -> None:
            ctx.send_event(name, workflow_id="wf", value=value)

        @manager.mutation
        def fell(ctx: MutationContext, workflow_id: str) -> None:
            ctx.cancel(workflow_id)

        @manager.workflow
        async def idle(step: Step) -> None:
            await step.await_event("never")

        @manager.workflow
        async def now(step: Step) -> datetime:
            return step.now()

        @manager.workflow
        async def scripted(step: Step) -> Any:
            value = await body(step, self)
            self.told.append(value)
            await step.await_event("over")
            return value

        self.echo: Any = echo
        self.hang: Any = hang
        self.fail: Any = fail
        self.poke: Any = poke
        self.fell: Any = fell
        self.idle: Any = idle
        self.now: Any = now
        self.scripted: Any = scripted

    def steps(self) -> dict[str, list[str]]:
        """The steps of each status, by name."""
        found: dict[str, list[str]] = {}
        for info in self.manager.sync.list_steps("wf"):
            found.setdefault(info.status, []).append(info.name)
        return found


def play(
    path: Path | str,
    body: Callable[[Step, App], Awaitable[Any]],
    apps: list[App] | None = None,
    **options: Any,
) -> tuple[Any, dict[str, list[str]]]:
    """What the body gave, live and replayed, and its steps; the app is put into `apps`."""
    app = App(path, body, **options)
    if apps is not None:
        apps.append(app)
    sync = app.manager.sync
    try:
        sync.start(app.scripted(), id="wf")
        sync.close()
        app.manager.run(until_idle=True)
        sync.send_event("over", workflow_id="wf")
        sync.close()
        app.manager.run(until_idle=True)
        value = sync.result("wf", timeout=LONG)
        steps = app.steps()
        assert len(app.told) >= 2  # it was replayed
        # Through JSON, as the result is: a tuple is a list there.
        assert all(each == app.told[0] for each in app.told)
        return value, steps
    finally:
        sync.close()

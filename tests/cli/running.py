"""What the tests of the command run, and what they get."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import attrs

#: A user's module. Each test has its own, under a name of its own: modules are imported once.
APP = """
from perdure import MutationContext, Step, WorkflowManager

manager = WorkflowManager("app.db")
number = 5


@manager.mutation
def note(ctx: MutationContext, text: str) -> str:
    return text


@manager.workflow
async def order(step: Step, user: str, count: int = 1) -> str:
    await step.run_mutation(note(f"[bold]{user}"))
    decision = await step.await_event("decision")
    return f"{user}: {decision}"


@manager.workflow
async def parent(step: Step, user: str) -> str:
    return await step.run_workflow(order(user))


@manager.workflow
async def failing(step: Step) -> None:
    raise LookupError("no such [thing]")
"""


@attrs.frozen
class Ran:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output as JSON; fails if it printed anything else."""
        return json.loads(self.out)


Run = Callable[..., Ran]

"""Definitions and verbs for the tests of restarting and deleting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.runtime.harness import Rig

from perdure.definitions import Definer
from perdure.errors import (
    StepCanceled,
    StepFailed,
)
from perdure.runtime.contexts import ActionContext, MutationContext
from perdure.runtime.orders import cleanup_order, restart_order
from perdure.step import Step

Make = Callable[..., Rig]
d = Definer()


@d.action
def work(ctx: ActionContext, n: int) -> int:
    raise NotImplementedError("the rig's runner runs nothing")


@d.mutation
def note(ctx: MutationContext, text: str) -> str:
    ctx.db.execute("CREATE TABLE IF NOT EXISTS notes (text)")
    ctx.db.execute("INSERT INTO notes VALUES (?)", (text,))
    return text


@d.mutation
def do(ctx: MutationContext, verbs: list[Any]) -> None:
    """Several verbs in one transaction."""
    for verb, workflow_id, *more in verbs:
        match verb:
            case "restart":
                ctx.restart(workflow_id, from_step=more[0] if more else None)
            case "cleanup":
                ctx.cleanup(workflow_id, force=True)
            case "cancel":
                ctx.cancel(workflow_id)
            case "raise":
                raise ValueError(workflow_id)


@d.workflow
async def chain(step: Step) -> list[object]:
    first = await step.run_action(work(1))
    second = await step.run_action(work(2))
    return [first, second]


@d.workflow
async def answer(step: Step, value: int) -> int:
    return value


@d.workflow
async def waiting(step: Step) -> object:
    return await step.await_event("go")


@d.workflow
async def parent(step: Step, child_id: str | None = None) -> object:
    await step.run_mutation(note("parent"))
    try:
        return await step.run_workflow(waiting(), workflow_id=child_id)
    except StepCanceled:
        return "canceled"
    except StepFailed as error:
        return error.error.type


@d.workflow
async def grandparent(step: Step) -> object:
    return await step.run_workflow(parent("kid"), workflow_id="middle")


@d.workflow
async def acting(step: Step, verbs: list[Any]) -> None:
    await step.await_event("act")
    await step.run_mutation(do(verbs))


@d.mutation
def ended_noted(ctx: MutationContext, workflow_id: str, outcome: Any) -> None:
    ctx.db.execute("CREATE TABLE IF NOT EXISTS notes (text)")
    ctx.db.execute("INSERT INTO notes VALUES (?)", (f"{workflow_id} {outcome.kind}",))


@d.workflow
async def two_waits(step: Step) -> list[object]:
    return [await step.await_event("go"), await step.await_event("go")]


def ask(rig: Rig, order: Any) -> Any:
    """Have an order carried out, by whichever process `rig` is."""
    return rig.value(rig.done(rig.ask(order)))


def restart(rig: Rig, workflow_id: str, from_step: Any = None) -> None:
    ask(rig, restart_order(workflow_id, from_step))


def cleanup(rig: Rig, workflow_id: str, *, force: bool = False) -> bool:
    is_deleted: bool = ask(rig, cleanup_order(workflow_id, force))
    return is_deleted


def send(rig: Rig, workflow_id: str, value: Any, name: str = "go") -> None:
    ask(rig, rig.event(name, workflow_id, value))


def cancel(rig: Rig, workflow_id: str) -> None:
    rig.value(rig.done(rig.ask_cancel(workflow_id)))


def begun(rig: Rig, call: Any, **options: Any) -> str:
    workflow_id = rig.start(call, **options)
    rig.settle()
    return workflow_id


def ids(rig: Rig) -> set[str]:
    return {workflow_id for (workflow_id,) in rig.rows("SELECT id FROM perdure_workflows")}


def count(rig: Rig, *tables: str) -> int:
    return sum(rig.rows(f"SELECT count(*) FROM perdure_{table}")[0][0] for table in tables)


def finish_chain(rig: Rig, *values: str) -> None:
    for value in values:
        rig.runner.succeed(value)
        rig.settle()

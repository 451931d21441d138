"""An order service: FastAPI in front, workflows behind it, in one process or in two.

One process, web and worker together::

    uvicorn fastapi_app:app

Two: a web process (or several) that only starts and asks, and a worker (or several)::

    ORDERS_WORKER=elsewhere uvicorn --workers 2 fastapi_app:app
    perdure --app fastapi_app:manager worker
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import msgspec
from fastapi import Body, FastAPI, HTTPException

from perdure import (
    ActionContext,
    MutationContext,
    Step,
    WorkflowIdConflict,
    WorkflowManager,
    WorkflowNotFound,
    WorkflowNotRunning,
    define_event,
)

# Making a manager does no I/O: it may stand at the top of a module, before a fork too.
manager = WorkflowManager("orders.db", retry_actions_by_default=True)
approval = define_event("approval", bool)


class Order(msgspec.Struct):
    """What is ordered, and for how much."""

    item: str
    cents: int


@manager.mutation
def set_state(ctx: MutationContext, number: int, state: str) -> None:
    ctx.db.execute("create table if not exists orders (number integer primary key, state text)")
    ctx.db.execute("insert or replace into orders values (?, ?)", (number, state))


@manager.action
async def charge(ctx: ActionContext, cents: int) -> str:
    # Here the bank would be called, with `ctx.idempotency_key`.
    return f"receipt over {cents} cents"


@manager.workflow
async def fulfil(step: Step, number: int, order: Order) -> str:
    if order.cents > 10_000:
        await step.run_mutation(set_state(number, "waits for approval"))
        if not await step.await_event(approval):
            await step.run_mutation(set_state(number, "refused"))
            return "refused"
    receipt = await step.run_action(charge(order.cents))
    await step.run_mutation(set_state(number, "paid"))
    return receipt


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """The manager is open for as long as the application runs, in each of its processes."""
    works_here = os.environ.get("ORDERS_WORKER", "here") == "here"
    async with manager if works_here else manager.client():
        yield


app = FastAPI(lifespan=lifespan)


@app.put("/orders/{number}", status_code=202)
async def place(
    number: int, item: Annotated[str, Body()], cents: Annotated[int, Body()]
) -> dict[str, str]:
    """Start the order, once: a client that asks twice gets the same answer."""
    try:
        workflow_id = await manager.start(fulfil(number, Order(item, cents)), id=f"order-{number}")
    except WorkflowIdConflict:
        raise HTTPException(409, "there is another order with this number") from None
    return {"workflow": workflow_id}


@app.get("/orders/{number}")
async def look(number: int) -> dict[str, Any]:
    """How the order stands."""
    try:
        status = await manager.status(f"order-{number}")
    except WorkflowNotFound:
        raise HTTPException(404, "no such order") from None
    match status.kind:
        case "in_progress":
            return {"status": status.kind, "running": [step.name for step in status.running]}
        case "success":
            return {"status": status.kind, "value": status.value}
        case "failed":
            return {"status": status.kind, "error": status.error.message}
        case "canceled":
            return {"status": status.kind}


@app.post("/orders/{number}/approval", status_code=202)
async def approve(number: int, is_approved: Annotated[bool, Body(embed=True)]) -> None:
    """Tell the order what the boss says. It is kept until the workflow asks for it."""
    try:
        await manager.send_event(approval, workflow_id=f"order-{number}", value=is_approved)
    except WorkflowNotFound:
        raise HTTPException(404, "no such order") from None


@app.delete("/orders/{number}", status_code=204)
async def cancel(number: int) -> None:
    """Cancel the order; when this has answered, nothing more happens for it."""
    try:
        await manager.cancel(f"order-{number}")
    except WorkflowNotFound:
        raise HTTPException(404, "no such order") from None
    except WorkflowNotRunning:
        raise HTTPException(409, "it has ended already") from None

"""A claim for expenses is paid if the boss approves it within a week; after three days a reminder.

Twice wrong below: a deadline by the wall clock, and an approval that comes late and is lost.
"""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import UTC, datetime, timedelta

import perdure

manager = perdure.WorkflowManager("approval.db", retry_actions_by_default=True)
decision = perdure.define_event("decision", bool)

REMIND_AFTER = timedelta(days=3)
REFUSE_AFTER = timedelta(days=4)  # after the reminder


def create_tables(db: sqlite3.Connection) -> None:
    db.execute("create table payments (claim integer)")


@manager.action
async def remind(ctx: perdure.ActionContext, claim: int) -> None:
    raise NotImplementedError("the chat's own interface")


@manager.mutation
def pay(ctx: perdure.MutationContext, claim: int) -> None:
    ctx.db.execute("insert into payments values (?)", (claim,))


@manager.workflow
async def reimburse(step: perdure.Step, claim: int) -> str:
    answer = step.await_event(decision)  # asked for once, and awaited twice
    try:
        approved = await asyncio.wait_for(asyncio.shield(answer), REMIND_AFTER.total_seconds())
    except TimeoutError:
        await step.run_action(remind(claim))
        try:
            approved = await asyncio.wait_for(answer, REFUSE_AFTER.total_seconds())
        except TimeoutError:
            approved = False
    if not approved:
        return "refused"
    await step.run_mutation(pay(claim))
    return "paid"


# --- wrong: the late approval is lost -------------------------------------------------------------


@manager.workflow
async def reimburse_or_forget(step: perdure.Step, claim: int) -> str:
    answer = step.await_event(decision)
    try:
        approved = await asyncio.wait_for(asyncio.shield(answer), REMIND_AFTER.total_seconds())
    except TimeoutError:
        await step.run_action(remind(claim))
        try:
            # Asked for anew: but the first one still waits, and gets the event, and nobody looks.
            approved = await step.await_event(decision, timeout=REFUSE_AFTER)
        except TimeoutError:
            approved = False
    if not approved:
        return "refused"
    await step.run_mutation(pay(claim))
    return "paid"


# --- wrong: the deadline is a matter of the wall clock --------------------------------------------


def time_left(deadline: datetime) -> timedelta:
    return deadline - datetime.now(UTC)


@manager.workflow
async def reimburse_by_the_clock(step: perdure.Step, claim: int) -> str:
    deadline = step.now() + REMIND_AFTER + REFUSE_AFTER
    while time_left(deadline) > timedelta(0):  # another answer at each replay
        try:
            approved = await step.await_event(decision, timeout=timedelta(days=1))
        except TimeoutError:
            await step.run_action(remind(claim))
            continue
        if approved:
            await step.run_mutation(pay(claim))
            return "paid"
        break
    return "refused"

"""A new user confirms an address, tries the product for two weeks, and is asked whether to pay.

Twice wrong below: one event for two questions, and a sleep where a timeout belongs.
"""

from __future__ import annotations

import sqlite3
from datetime import timedelta

import perdure

manager = perdure.WorkflowManager("onboarding.db", retry_actions_by_default=True)
confirmed = perdure.define_event("confirmed", bool)
accepted = perdure.define_event("accepted", bool)

TO_CONFIRM = timedelta(days=3)
TRIAL = timedelta(days=14)


def create_tables(db: sqlite3.Connection) -> None:
    db.execute("create table users (name text primary key, plan text)")


@manager.action
async def mail(ctx: perdure.ActionContext, user: str, text: str) -> None:
    raise NotImplementedError("the mail service's own interface")


@manager.mutation
def set_plan(ctx: perdure.MutationContext, user: str, plan: str) -> None:
    ctx.db.execute("insert or replace into users values (?, ?)", (user, plan))


@manager.workflow
async def onboard(step: perdure.Step, user: str) -> str:
    await step.run_action(mail(user, "Is this your address? Click here."))
    try:
        await step.await_event(confirmed, timeout=TO_CONFIRM)
    except TimeoutError:
        return "expired"
    await step.run_mutation(set_plan(user, "trial"))
    await step.run_action(mail(user, "Would you like to pay? Click here."))
    try:
        await step.await_event(accepted, timeout=TRIAL)
    except TimeoutError:
        await step.run_mutation(set_plan(user, "free"))
        return "free"
    await step.run_mutation(set_plan(user, "paid"))
    return "paid"


# --- wrong: one event for both questions ----------------------------------------------------------

#: Both links send it. Events queue, so the second click on the first link waits for the next
#: `await_event`, which takes it for the answer to the second question.
clicked = perdure.define_event("clicked", bool)


@manager.workflow
async def onboard_by_clicks(step: perdure.Step, user: str) -> str:
    await step.run_action(mail(user, "Is this your address? Click here."))
    try:
        await step.await_event(clicked, timeout=TO_CONFIRM)
    except TimeoutError:
        return "expired"
    await step.run_mutation(set_plan(user, "trial"))
    await step.run_action(mail(user, "Would you like to pay? Click here."))
    try:
        await step.await_event(clicked, timeout=TRIAL)
    except TimeoutError:
        await step.run_mutation(set_plan(user, "free"))
        return "free"
    await step.run_mutation(set_plan(user, "paid"))
    return "paid"


# --- wrong: a sleep for a timeout -----------------------------------------------------------------


@manager.workflow
async def onboard_by_sleeping(step: perdure.Step, user: str) -> str:
    await step.run_action(mail(user, "Is this your address? Click here."))
    await step.sleep(TO_CONFIRM)  # who clicks at once waits for three days, too
    try:
        await step.await_event(confirmed, timeout=0)
    except TimeoutError:
        return "expired"
    await step.run_mutation(set_plan(user, "trial"))
    return "trial"

"""A subscription of a year is paid every month, on the day of the month on which it began.

Three times wrong below: an action without retries that is expected to be done, months that drift,
and months by the clock of the machine.
"""

from __future__ import annotations

import calendar
import sqlite3
from datetime import datetime, timedelta

import perdure

manager = perdure.WorkflowManager("subscription.db")
MONTHS = 12


class Bank:
    """The bank's own interface; tests put another one in its place."""

    async def charge(self, customer: str, key: str) -> None:
        """Take the price of a month, once for each key."""
        raise NotImplementedError


bank = Bank()


def create_tables(db: sqlite3.Connection) -> None:
    db.execute("create table periods (customer text, ends text, unique (customer, ends))")


def months_after(begin: datetime, count: int) -> datetime:
    """The same day of a later month, or the last one that it has."""
    years, month = divmod(begin.month - 1 + count, 12)
    year, month = begin.year + years, month + 1
    day = min(begin.day, calendar.monthrange(year, month)[1])
    return begin.replace(year=year, month=month, day=day)


@manager.action(retry=True)
async def charge(ctx: perdure.ActionContext, customer: str, number: int) -> None:
    await bank.charge(customer, key=f"{ctx.workflow_id}, month {number}")


@manager.mutation
def extend(ctx: perdure.MutationContext, customer: str, ends: datetime) -> None:
    ctx.db.execute("insert into periods values (?, ?)", (customer, f"{ends:%Y-%m-%d}"))


@manager.workflow
async def subscribe(step: perdure.Step, customer: str) -> str:
    begin = step.now()
    for number in range(MONTHS):
        await step.sleep_until(months_after(begin, number))
        while True:
            try:
                await step.run_action(charge(customer, number))
                break
            except perdure.StepFailed:  # the bank will not, or is not there: ask again tomorrow
                await step.sleep(timedelta(days=1))
        await step.run_mutation(extend(customer, months_after(begin, number + 1)))
    return "over"


# --- wrong: an action that is tried once is expected to be done -----------------------------------


@manager.action  # no `retry`, and the manager has none by default: at most once
async def charge_once(ctx: perdure.ActionContext, customer: str, number: int) -> None:
    await bank.charge(customer, key=f"{ctx.workflow_id}, month {number}")


@manager.workflow
async def subscribe_at_most_once(step: perdure.Step, customer: str) -> str:
    begin = step.now()
    for number in range(MONTHS):
        await step.sleep_until(months_after(begin, number))
        await step.run_action(charge_once(customer, number))
        await step.run_mutation(extend(customer, months_after(begin, number + 1)))
    return "over"


# --- wrong: each month begins a little later than it should ---------------------------------------


@manager.workflow
async def subscribe_and_drift(step: perdure.Step, customer: str) -> str:
    for number in range(MONTHS):
        while True:
            try:
                await step.run_action(charge(customer, number))
                break
            except perdure.StepFailed:
                await step.sleep(timedelta(days=1))
        until = months_after(step.now(), 1)  # later by what the charge took, month after month
        await step.run_mutation(extend(customer, until))
        await step.sleep_until(until)
    return "over"


# --- wrong: the month is that of the machine's clock ----------------------------------------------


@manager.mutation
def extend_from_today(ctx: perdure.MutationContext, customer: str) -> None:
    ctx.db.execute("insert or ignore into periods values (?, date('now', '+1 month'))", (customer,))


@manager.workflow
async def subscribe_by_the_clock(step: perdure.Step, customer: str) -> str:
    begin = step.now()
    for number in range(MONTHS):
        await step.sleep_until(months_after(begin, number))
        while True:
            try:
                await step.run_action(charge(customer, number))
                break
            except perdure.StepFailed:
                await step.sleep(timedelta(days=1))
        await step.run_mutation(extend_from_today(customer))
    return "over"

"""An order is charged and packed, or the money is given back: all of it, and once.

Three times wrong below: a charge without a key, a charge outside of the `try`, and a refund that is
tried only once.
"""

from __future__ import annotations

import sqlite3
from datetime import timedelta

import perdure

manager = perdure.WorkflowManager("order.db", retry_actions_by_default=True)


class Bank:
    """The bank's own interface; tests put another one in its place."""

    async def charge(self, number: int, cents: int, key: str | None) -> None:
        """Take money for an order, once for each key; not if the order is void."""
        raise NotImplementedError

    async def void(self, number: int) -> None:
        """Give back all that was taken for an order, and take nothing for it any more."""
        raise NotImplementedError


bank = Bank()


def create_tables(db: sqlite3.Connection) -> None:
    db.execute("create table stock (pieces integer)")
    db.execute("insert into stock values (1)")
    db.execute("create table packed (number integer)")


@manager.action
async def charge(ctx: perdure.ActionContext, number: int, cents: int) -> None:
    await bank.charge(number, cents, key=ctx.idempotency_key)


@manager.action
async def refund(ctx: perdure.ActionContext, number: int) -> None:
    await bank.void(number)


@manager.mutation
def pack(ctx: perdure.MutationContext, number: int) -> None:
    if not ctx.db.execute("update stock set pieces = pieces - 1 where pieces > 0").rowcount:
        raise LookupError("out of stock")
    ctx.db.execute("insert into packed values (?)", (number,))


@manager.workflow
async def order(step: perdure.Step, number: int, cents: int) -> str:
    try:
        await step.run_action(charge(number, cents))
        await step.run_mutation(pack(number))
        return "packed"
    except perdure.StepFailed:
        pass  # a charge that failed may have been made, and its answer lost
    while True:  # a refund is not given up
        try:
            await step.run_action(refund(number))
            return "refunded"
        except perdure.StepFailed:
            await step.sleep(timedelta(hours=1))


# --- wrong: the bank cannot tell a second attempt from a second charge ----------------------------


@manager.action
async def charge_without_key(ctx: perdure.ActionContext, number: int, cents: int) -> None:
    await bank.charge(number, cents, key=None)


@manager.workflow
async def order_without_key(step: perdure.Step, number: int, cents: int) -> str:
    try:
        await step.run_action(charge_without_key(number, cents))
        await step.run_mutation(pack(number))
        return "packed"
    except perdure.StepFailed:
        pass
    while True:
        try:
            await step.run_action(refund(number))
            return "refunded"
        except perdure.StepFailed:
            await step.sleep(timedelta(hours=1))


# --- wrong: what fails outside of the `try` is not made good --------------------------------------


@manager.workflow
async def order_half_covered(step: perdure.Step, number: int, cents: int) -> str:
    await step.run_action(charge(number, cents))  # "if it fails there is nothing to give back"
    try:
        await step.run_mutation(pack(number))
        return "packed"
    except perdure.StepFailed:
        pass
    while True:
        try:
            await step.run_action(refund(number))
            return "refunded"
        except perdure.StepFailed:
            await step.sleep(timedelta(hours=1))


# --- wrong: a refund that is tried once -----------------------------------------------------------


@manager.workflow
async def order_refunded_at_most_once(step: perdure.Step, number: int, cents: int) -> str:
    try:
        await step.run_action(charge(number, cents))
        await step.run_mutation(pack(number))
        return "packed"
    except perdure.StepFailed:
        # "so that nobody is refunded twice": and if the worker dies, nobody is refunded at all
        await step.run_action(refund(number), retry=False)
        return "refunded"

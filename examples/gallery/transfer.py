"""Money goes from one account to another, in one transaction; then the receiver is told.

Three times wrong below: a mutation that calls out, two mutations taken for one transaction, and a
balance that is read in one step and written in another.
"""

from __future__ import annotations

import sqlite3

import perdure

manager = perdure.WorkflowManager("transfer.db", retry_actions_by_default=True)


class Messages:
    """Text messages; tests put another one in its place."""

    def send(self, account: str, text: str, key: str | None) -> None:
        """Send one, once for each key."""
        raise NotImplementedError


messages = Messages()


def create_tables(db: sqlite3.Connection) -> None:
    db.execute("create table accounts (name text primary key, cents integer check (cents >= 0))")
    db.execute("create table received (account text, cents integer)")
    db.execute("insert into accounts values ('Ann', 100), ('Bob', 100)")


def add(db: sqlite3.Connection, account: str, cents: int) -> None:
    db.execute("update accounts set cents = cents + ? where name = ?", (cents, account))


@manager.mutation
def move(ctx: perdure.MutationContext, source: str, target: str, cents: int) -> None:
    add(ctx.db, source, -cents)  # raises if there is not enough
    add(ctx.db, target, cents)
    ctx.db.execute("insert into received values (?, ?)", (target, cents))


@manager.action
def tell(ctx: perdure.ActionContext, account: str, cents: int) -> None:
    messages.send(account, f"You have received {cents} cents.", key=ctx.idempotency_key)


@manager.workflow
async def transfer(step: perdure.Step, source: str, target: str, cents: int) -> str:
    try:
        await step.run_mutation(move(source, target, cents))
    except perdure.StepFailed:
        return "refused"
    try:
        await step.run_action(tell(target, cents))
    except perdure.StepFailed:
        return "moved, and not told"
    return "moved"


# --- wrong: a mutation that calls out -------------------------------------------------------------


@manager.mutation
def move_and_tell(ctx: perdure.MutationContext, source: str, target: str, cents: int) -> None:
    add(ctx.db, source, -cents)
    add(ctx.db, target, cents)
    ctx.db.execute("insert into received values (?, ?)", (target, cents))
    # Sent before the commit: if that fails, no rollback takes it back, and it is sent again.
    messages.send(target, f"You have received {cents} cents.", key=None)


@manager.workflow
async def transfer_calling_out(step: perdure.Step, source: str, target: str, cents: int) -> str:
    try:
        await step.run_mutation(move_and_tell(source, target, cents))
    except perdure.StepFailed:
        return "refused"
    return "moved"


# --- wrong: two mutations are two transactions ----------------------------------------------------


@manager.mutation
def take(ctx: perdure.MutationContext, source: str, cents: int) -> None:
    add(ctx.db, source, -cents)


@manager.mutation
def give(ctx: perdure.MutationContext, target: str, cents: int) -> None:
    add(ctx.db, target, cents)
    ctx.db.execute("insert into received values (?, ?)", (target, cents))


@manager.workflow
async def transfer_in_two(step: perdure.Step, source: str, target: str, cents: int) -> str:
    try:
        await step.run_mutation(take(source, cents))
        await step.run_mutation(give(target, cents))
    except perdure.StepFailed:
        return "refused"
    return "moved"


# --- wrong: what was read may be another by the time that it is written ---------------------------


@manager.query
def balance_of(ctx: perdure.QueryContext, account: str) -> int:
    row = ctx.db.execute("select cents from accounts where name = ?", (account,)).fetchone()
    cents: int = row[0]
    return cents


@manager.mutation
def settle(ctx: perdure.MutationContext, balances: dict[str, int]) -> None:
    for account, cents in balances.items():
        ctx.db.execute("update accounts set cents = ? where name = ?", (cents, account))


@manager.workflow
async def transfer_of_what_was(step: perdure.Step, source: str, target: str, cents: int) -> str:
    has = await step.run_query(balance_of(source))
    had = await step.run_query(balance_of(target))
    if has < cents:
        return "refused"
    await step.run_mutation(settle({source: has - cents, target: had + cents}))
    return "moved"

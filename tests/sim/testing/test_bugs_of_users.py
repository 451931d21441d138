"""Bugs that people write in workflows: each is found by a plain test, on its defaults, with few
faults."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st

from perdure import (
    ActionContext,
    MutationContext,
    NonRetryableError,
    QueryContext,
    Step,
    StepFailed,
    WorkflowManager,
)
from perdure_sim import CRASH, Simulation, simulate

manager = WorkflowManager("bugs.db", retry_actions_by_default=True)


def create_tables(db: sqlite3.Connection) -> None:
    db.execute("create table account (cents integer)")
    db.execute("insert into account values (100)")
    db.execute("create table done (number integer)")


# --- a child that is started again after a time-out -----------------------------------------------


@manager.action
async def ship(ctx: ActionContext, number: int) -> str:
    raise AssertionError("tests stub it")


@manager.workflow
async def shipment(step: Step, number: int) -> str:
    return await step.run_action(ship(number))


@manager.workflow
async def shipped_in_time(step: Step, number: int) -> str:
    """The first child may have shipped; what it did is not undone when it is canceled."""
    try:
        async with asyncio.timeout(3_600):
            return await step.run_workflow(shipment(number))
    except TimeoutError:
        return await step.run_workflow(shipment(number))


@simulate(manager, store="sqlite", number=st.integers(1, 9))
def child_again(sim: Simulation, number: int) -> None:
    shipped: list[str] = []

    def ships(ctx: ActionContext, number: int) -> str:
        shipped.append(ctx.idempotency_key)
        return "sent"

    sim.stub(ship, call=ships)
    sim.start(shipped_in_time(number))
    sim.settle()
    assert len(set(shipped)) <= 1


# --- an `on_complete` that is taken for done ------------------------------------------------------


@manager.mutation
def mark(ctx: MutationContext, workflow_id: str, outcome: Any, context: Any) -> None:
    ctx.db.execute("insert into done values (?)", (context,))


@manager.mutation
def begin(ctx: MutationContext, number: int) -> str:
    return ctx.start(shipment(number), on_complete=mark, context=number)


@manager.query
def is_done(ctx: QueryContext, number: int) -> bool:
    return (number,) in ctx.db.execute("select number from done").fetchall()


@manager.workflow
async def begun_and_done(step: Step, number: int) -> bool:
    """An hour is enough, one thinks."""
    await step.run_mutation(begin(number))
    await step.sleep(3_600)
    return await step.run_query(is_done(number))


@simulate(manager, setup=create_tables, number=st.integers(1, 9))
def done_too_early(sim: Simulation, number: int) -> None:
    sim.stub(ship, returns="sent", takes="10s")
    run = sim.start(begun_and_done(number))
    sim.settle()
    assert run.value


# --- read in one step, written in the next --------------------------------------------------------


@manager.query
def balance(ctx: QueryContext) -> int:
    (cents,) = ctx.db.execute("select cents from account").fetchone()
    assert isinstance(cents, int)
    return cents


@manager.mutation
def set_balance(ctx: MutationContext, cents: int) -> None:
    ctx.db.execute("update account set cents = ?", (cents,))


@manager.workflow
async def withdraw(step: Step, cents: int) -> bool:
    left = await step.run_query(balance())
    if left < cents:
        return False
    await step.run_mutation(set_balance(left - cents))
    return True


@simulate(manager, setup=create_tables, one=st.integers(1, 100), other=st.integers(1, 100))
def write_skew(sim: Simulation, one: int, other: int) -> None:
    runs = {cents: sim.start(withdraw(cents)) for cents in {one, other}}
    sim.settle()
    taken = sum(cents for cents, run in runs.items() if run.value)
    assert sim.db.execute("select cents from account").fetchone() == (100 - taken,)


# --- what is undone in the wrong order, or not at all ---------------------------------------------


@manager.action
async def reserve(ctx: ActionContext, what: str) -> None:
    raise AssertionError("tests stub it")


@manager.action
async def release(ctx: ActionContext, what: str) -> None:
    raise AssertionError("tests stub it")


@manager.workflow
async def trip(step: Step) -> str:
    undo: list[str] = []
    try:
        for what in ("flight", "hotel"):
            undo.append(what)
            await step.run_action(reserve(what))
    except StepFailed:
        for what in undo:  # the last one first, it should be
            await step.run_action(release(what))
        return "given up"
    return "booked"


@simulate(manager, given={})
def undone_in_order(sim: Simulation) -> None:
    sim.stub(reserve, returns=None)
    sim.stub(release, returns=None)
    sim.start(trip())
    sim.settle()
    reserved, released = (
        list(dict.fromkeys(call.arguments["what"] for call in sim.calls(action)))
        for action in (reserve, release)
    )
    assert released == reserved[::-1][: len(released)]


@manager.workflow
async def lossy_trip(step: Step) -> str:
    """What undoes is lost with its worker: it is not tried again."""
    await step.run_action(reserve("flight"))
    try:
        await step.run_action(reserve("hotel"))
    except StepFailed:
        await step.run_action(release("flight"), retry=False)
        return "given up"
    return "booked"


@simulate(manager, given={}, faults=CRASH)
def undone_at_all(sim: Simulation) -> None:
    held: list[str] = []

    def reserves(ctx: ActionContext, what: str) -> None:
        if what == "hotel":
            raise NonRetryableError("sold out")
        held.append(what)

    def releases(ctx: ActionContext, what: str) -> None:
        held.clear()

    sim.stub(reserve, call=reserves)
    sim.stub(release, call=releases)
    sim.start(lossy_trip())
    sim.settle()
    assert not held


class Full(Exception):
    """No room is left."""


@manager.action(raises=Full)
async def book(ctx: ActionContext, what: str) -> None:
    raise AssertionError("tests stub it")


@manager.workflow
async def hopeful_trip(step: Step) -> str:
    """What undoes is tried five times, and then given up."""
    try:
        await step.run_action(reserve("flight"))
        await step.run_action(book("hotel"))
    except (Full, StepFailed):
        await step.run_action(release("flight"))
        return "given up"
    return "booked"


@simulate(manager, is_full=st.booleans())
def undone_where_it_is_full(sim: Simulation, is_full: bool) -> None:
    """Only with one of the arguments does a run come to what undoes."""
    held: set[str] = set()

    def books(ctx: ActionContext, what: str) -> None:
        if is_full:
            raise Full(what)
        held.add(what)

    sim.stub(reserve, call=lambda ctx, what: held.add(what))
    sim.stub(book, call=books)
    sim.stub(release, call=lambda ctx, what: held.discard(what))
    sim.start(hopeful_trip())
    sim.settle()
    assert "hotel" in held or not held


# --- a loop of one's own around what must not be done twice ---------------------------------------


@manager.action
async def pay(ctx: ActionContext, number: int) -> str:
    raise AssertionError("tests stub it")


@manager.workflow
async def paid_at_last(step: Step, number: int) -> str:
    """Each round is another step, with another idempotency key."""
    for _ in range(3):
        try:
            return await step.run_action(pay(number), retry=False)
        except StepFailed:
            await step.sleep(1)
    return "given up"


@simulate(manager, number=st.integers(1, 9))
def retried_by_hand(sim: Simulation, number: int) -> None:
    bank: dict[str, int] = {}

    def pays(ctx: ActionContext, number: int) -> str:
        bank[ctx.idempotency_key] = number
        return "receipt"

    sim.stub(pay, call=pays)
    sim.start(paid_at_last(number))
    sim.settle()
    assert len(bank) <= 1


@pytest.mark.parametrize(
    ("test", "most"),
    [
        (child_again, 1),
        (done_too_early, 1),
        (write_skew, 0),
        (undone_in_order, 1),
        (undone_at_all, 1),
        (undone_where_it_is_full, 1),
        (retried_by_hand, 1),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_it_is_found(test: Callable[..., None], most: int) -> None:
    """With no more faults than it takes."""
    found: Any = test
    with pytest.raises(AssertionError):
        found()
    assert len(found.simulation.failures[AssertionError].plan) <= most

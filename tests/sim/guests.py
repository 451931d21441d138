"""A scenario of clients with transactions of their own, over which they use the manager's verbs.

Each order is a row in the application's table, and a workflow, made together: after every commit
there must be both or neither. The rest is what the scenario's own `check` says.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import closing
from typing import Any

from tests.sim.portable import execute
from tests.sim.scenes import QUICK

from perdure.core.outcomes import Canceled, Succeeded
from perdure.definitions import Definer
from perdure.errors import WorkflowNotFound, WorkflowNotRunning
from perdure.records import Outcome
from perdure.runtime.contexts import ActionContext, MutationContext
from perdure.step import Step
from perdure_sim.explore.explorer import Scenario
from perdure_sim.world.deeds import Deed
from perdure_sim.world.world import World

d = Definer()


@d.action(retry=QUICK)
async def pack(ctx: ActionContext, order: str) -> str:
    return f"{order} is packed"


@d.mutation
def note(ctx: MutationContext, text: str) -> None:
    execute(ctx.db, "INSERT INTO notes VALUES (?)", (text,))


@d.workflow
async def fulfil(step: Step, order: str) -> str:
    packed = await step.run_action(pack(order))
    try:
        paid = await step.await_event("paid", timeout=90_000)
    except TimeoutError:  # one that was called off, and that somebody restarted
        return f"{order} was never paid"
    await step.run_mutation(note(f"{packed}, {paid}"))
    return packed


@d.mutation
def over_and_out(ctx: MutationContext, workflow_id: str, outcome: Outcome) -> None:
    execute(ctx.db, "INSERT INTO notes VALUES (?)", (f"{workflow_id}: {outcome.kind}",))


@d.mutation
def fails(ctx: MutationContext, workflow_id: str, outcome: Outcome) -> None:
    execute(ctx.db, "INSERT INTO notes VALUES ('never')")
    raise ValueError("no")


def make_tables(db: Any) -> None:
    db.execute("CREATE TABLE orders (id TEXT PRIMARY KEY, state TEXT NOT NULL)")
    db.execute("CREATE TABLE notes (text TEXT NOT NULL)")


def place(over: MutationContext, order: str) -> None:
    """An order that is there is not placed again: a client asks until it is told."""
    if _state(over.db, order) is None:
        execute(over.db, "INSERT INTO orders VALUES (?, 'placed')", (order,))
        callback = fails if order == "c" else over_and_out
        over.start(fulfil(order), id=order, on_complete=callback)
        with contextlib.suppress(WorkflowNotFound):
            over.cancel("nobody")  # a verb that raises takes nothing with it


def pay(over: MutationContext, order: str) -> None:
    if _state(over.db, order) == "placed":
        execute(over.db, "UPDATE orders SET state = 'paid' WHERE id = ?", (order,))
        over.send_event("paid", workflow_id=order, value="paid")


def call_off(over: MutationContext, order: str) -> None:
    execute(over.db, "UPDATE orders SET state = 'off' WHERE id = ?", (order,))
    with contextlib.suppress(WorkflowNotRunning):
        over.cancel(order)


def change_their_mind(over: MutationContext, order: str) -> None:
    place(over, order)
    raise LookupError("no, thanks")


def _state(db: Any, order: str) -> str | None:
    row = execute(db, "SELECT state FROM orders WHERE id = ?", (order,)).fetchone()
    return None if row is None else row[0]


def trade(world: World) -> None:
    """Three orders are placed; a is paid, b and c are called off, and z never was."""
    world.observer = Together(world).look

    def do(what: Callable[[MutationContext, str], None], order: str) -> Deed:
        return world.transact(f"{what.__name__} {order}", lambda over: what(over, order))

    a, b, c = (do(place, order) for order in "abc")
    do(change_their_mind, "z")
    world.after(2_000, lambda: do(pay, "a"), a)
    world.after(1_000, lambda: do(call_off, "b"), b)
    world.after(1_000, lambda: do(call_off, "c"), c)


class Together:
    """The law: the user's rows and the engine's are there together, or not at all."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._seen = -1

    def look(self) -> None:
        """After each event in which something was committed."""
        commits = self._world.history.commits
        if commits == self._seen:
            return
        self._seen = commits
        with closing(self._world._disk.connect()) as db:
            rows = dict(execute(db, "SELECT id, state FROM orders").fetchall())
        known = self._world.history.everybody  # also those that were deleted since
        assert rows.keys() == known.keys(), f"orders {sorted(rows)}, workflows {sorted(known)}"
        for order, state in rows.items():
            if state == "off":
                has_ended = known[order].state.outcome is not None or known[order].past
                assert has_ended, f"{order} is called off, and its workflow goes on"


def check_trade(world: World) -> None:
    """Each order ended as its clients said."""
    outcomes = {key: known.state.outcome for key, known in world.history.workflows.items()}
    assert outcomes == {"a": Succeeded('"a is packed"'), "b": Canceled(), "c": Canceled()}
    notes = [text for (text,) in execute(world.db, "SELECT text FROM notes ORDER BY text")]
    assert notes == ["a is packed, paid", "a: success", "b: canceled"]
    errors = {deed.name: deed.error for deed in world.deeds if deed.error is not None}
    assert {name: type(error) for name, error in errors.items()} == {
        "change_their_mind z": LookupError
    }


GUESTS = Scenario(name="guests", definer=d, script=trade, setup=make_tables, check=check_trade)

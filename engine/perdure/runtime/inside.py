"""Marks code that runs inside a handler or a transaction.

There a call of the manager would wait for the very engine that waits for this code; so it raises
at once and names the verb to use.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Literal, TypeVar

from perdure.errors import CalledInside

T = TypeVar("T")

Place = Literal["handler", "transaction"]

INSIDE: ContextVar[Place | None] = ContextVar("perdure_inside", default=None)


def refuse_inside(verb: str) -> None:
    """Raise if the caller runs inside a handler or a transaction."""
    place = INSIDE.get()
    if place == "handler":
        raise CalledInside(
            f"manager.{verb} inside a workflow: a replay would repeat it; use step.run_… or"
            " step.await_event, or call the manager from an action"
        )
    if place == "transaction":
        raise CalledInside(
            f"manager.{verb} inside a mutation or query would wait for itself: use ctx.{verb}(…),"
            " which takes part in this transaction"
        )


def inside_transaction(fn: Callable[[], T]) -> T:
    """Run `fn`, marked as running inside a transaction."""
    token = INSIDE.set("transaction")
    try:
        return fn()
    finally:
        INSIDE.reset(token)

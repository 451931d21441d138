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


#: Verbs that a mutation's context has too.
CONTEXT_VERBS = frozenset({"start", "cancel", "restart", "cleanup", "send_event", "create_event"})

#: What a handler does instead of a verb; an action may use each of them.
_STEP_VERBS = {
    "start": "await step.run_workflow(…)",
    "result": "await step.run_workflow(…)",
    "watch": "await step.run_workflow(…)",
    "run_query": "await step.run_query(…)",
    "run_mutation": "await step.run_mutation(…)",
}


def refuse_inside(verb: str) -> None:
    """Raise if the caller runs inside a handler or a transaction."""
    place = INSIDE.get()
    if place == "handler":
        instead = _STEP_VERBS.get(verb, "step.run_… or step.await_event")
        raise CalledInside(
            f"manager.{verb} inside a workflow: a replay would repeat it; use {instead}, or call"
            " the manager from an action"
        )
    if place == "transaction":
        if verb in ("run_query", "run_mutation"):
            instead = "use ctx.db, or call the function itself: definition.fn(ctx, …)"
        elif verb in CONTEXT_VERBS:
            instead = f"use ctx.{verb}(…), which takes part in this transaction"
        else:
            instead = f"use ctx.db, or call manager.{verb} when the function has returned"
        raise CalledInside(
            f"manager.{verb} inside a mutation or query would wait for itself: {instead}"
        )


def inside_transaction(fn: Callable[[], T]) -> T:
    """Run `fn`, marked as running inside a transaction."""
    token = INSIDE.set("transaction")
    try:
        return fn()
    finally:
        INSIDE.reset(token)

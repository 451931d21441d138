"""What functions get as their first argument. (The transaction's: see test_functions.py.)"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from perdure.runtime.contexts import ActionContext


class Verbs:
    """Stands for a manager: keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any, dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        async def verb(what: Any, **options: Any) -> str:
            self.asked.append((name, what, options))
            return f"did {name}"

        return verb


def context(verbs: Verbs) -> ActionContext:
    return ActionContext(
        verbs,
        name="charge",
        workflow_id="w",
        step_number=3,
        attempt=2,
        idempotency_key="w/3@1",
    )


def test_the_verbs_of_an_action_are_the_manager_s() -> None:
    """Each is passed on with its options, and gives what the manager gave."""

    async def main() -> Verbs:
        verbs = Verbs()
        ctx: Any = context(verbs)
        assert await ctx.start("call", id="x") == "did start"
        assert await ctx.status("w") == "did status"
        assert await ctx.result("w", timeout=1) == "did result"
        assert await ctx.cancel("w") is None
        assert await ctx.send_event("e", workflow_id="w") == "did send_event"
        assert await ctx.create_event("e", workflow_id="w") == "did create_event"
        assert await ctx.run_query("q") == "did run_query"
        assert await ctx.run_mutation("m") == "did run_mutation"
        return verbs

    at_once = {"on_complete": None, "context": None, "run_after": None, "run_at": None}
    assert asyncio.run(main()).asked == [
        ("start", "call", {"id": "x"} | at_once),
        ("status", "w", {}),
        ("result", "w", {"timeout": 1}),
        ("cancel", "w", {}),
        ("send_event", "e", {"workflow_id": "w", "id": None, "value": None, "error": None}),
        ("create_event", "e", {"workflow_id": "w"}),
        ("run_query", "q", {}),
        ("run_mutation", "m", {}),
    ]


def test_the_blocking_verbs_are_the_manager_s() -> None:
    """For actions in threads: `ctx.sync` is what the manager offers as its own `sync`."""
    verbs: Any = Verbs()
    verbs.sync = object()
    assert context(verbs).sync is verbs.sync


def test_the_logger_knows_the_step(caplog: pytest.LogCaptureFixture) -> None:
    """Records carry the ids, under a name of the action's own."""
    with caplog.at_level(logging.INFO):
        context(Verbs()).logger.info("hello")
    (record,) = caplog.records
    assert record.name == "perdure.action.charge"
    about = record.__dict__
    assert (about["workflow_id"], about["step_number"], about["attempt"]) == ("w", 3, 2)

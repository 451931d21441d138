"""A manager's verbs in the user's own transaction."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from tests.managers import LONG, call, define, make, number_event, run

from perdure import (
    CalledInside,
    Canceled,
    ConnectionMisuse,
    InProgress,
    MutationContext,
    Outcome,
    Step,
    WorkflowManager,
    WorkflowNotFound,
    WorkflowNotRunning,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture
def manager(path: Path) -> WorkflowManager:
    """A manager that is not open."""
    made = make(path)
    define(made)
    return made


def test_a_start_is_stored_with_the_user_s_commit(manager: WorkflowManager, path: Path) -> None:
    """Before any manager has opened the file; a rollback takes both back."""
    user = sqlite3.connect(path)
    user.execute("CREATE TABLE orders (id)")
    user.commit()
    for ends in (user.rollback, user.commit):
        user.execute("INSERT INTO orders VALUES (7)")
        manager.over(user).start(call(manager, "everything", 3), id="w")
        ends()
    assert user.execute("SELECT count(*) FROM orders").fetchone() == (1,)
    user.close()

    async def test(m: WorkflowManager) -> Any:
        return await m.result("w", timeout=LONG)

    assert run(test, manager) == [6, 12, 1]


@pytest.mark.parametrize("in_own_thread", [True, False])
def test_an_open_manager_notices_the_commit(
    manager: WorkflowManager, path: Path, in_own_thread: bool
) -> None:
    """Starts, events and cancels, from the loop's thread or another; nothing else wakes it."""

    def meddle() -> list[str]:
        user = sqlite3.connect(path)
        over = manager.over(user)
        started = over.start(call(manager, "everything", 1))
        adding = over.start(call(manager, "add"))
        event_id = over.create_event(number_event, workflow_id=adding)
        over.send_event(number_event, workflow_id=adding, value=1)
        over.send_event(number_event, workflow_id=adding, value=2)
        over.cancel("waits")
        assert over.db is user
        user.commit()
        user.close()
        return [started, adding, event_id]

    async def test(m: WorkflowManager) -> Any:
        await m.start(call(m, "wait"), id="waits")
        async for status in m.watch("waits"):
            if isinstance(status, InProgress) and status.running:
                break
        started, adding, _ = await asyncio.to_thread(meddle) if in_own_thread else meddle()
        results = [await m.result(each, timeout=LONG) for each in (started, adding)]
        return [*results, await m.status("waits")]

    assert run(test, manager) == [[2, 4, 1], 3, Canceled()]


def test_a_verb_that_raises_leaves_the_transaction(manager: WorkflowManager, path: Path) -> None:
    """What was done before it is committed all the same."""
    user = sqlite3.connect(path)
    over = manager.over(user)
    over.start(call(manager, "wait"), id="w")
    with pytest.raises(WorkflowNotFound):
        over.cancel("nobody")
    with pytest.raises(WorkflowNotFound):
        over.create_event("e", workflow_id="nobody")
    over.cancel("w")
    with pytest.raises(WorkflowNotRunning):
        over.cancel("w")
    user.commit()
    user.close()
    assert manager.sync.status("w") == Canceled()
    manager.sync.close()


def test_an_on_complete_has_the_user_s_connection(path: Path) -> None:
    """A cancel runs it, in the same transaction; if it ends that, the cancel is an error."""
    manager = make(path)
    ends = False

    @manager.mutation
    def ended(ctx: MutationContext, workflow_id: str, outcome: Outcome) -> None:
        ctx.db.execute("INSERT INTO log VALUES (?)", (f"{workflow_id} {outcome.kind}",))
        if ends:
            ctx.db.commit()

    @manager.workflow
    async def waiting(step: Step) -> None:
        await step.await_event("never")

    user = sqlite3.connect(path)
    user.execute("CREATE TABLE log (entry)")
    for name in ("a", "b"):
        manager.over(user).start(waiting(), id=name, on_complete=ended)
    manager.over(user).cancel("a")
    assert user.execute("SELECT entry FROM log").fetchall() == [("a canceled",)]
    user.commit()
    ends = True
    with pytest.raises(ConnectionMisuse, match="on_complete of workflow 'b' has ended"):
        manager.over(user).cancel("b")
    user.close()


def test_the_context_ends_with_the_transaction(manager: WorkflowManager, path: Path) -> None:
    """After the commit it does not write alone, each verb by itself."""
    user = sqlite3.connect(path)
    over = manager.over(user)
    user.commit()
    with pytest.raises(ConnectionMisuse, match="has ended"):
        over.start(call(manager, "wait"))
    user.close()


def test_a_mutation_has_a_context_already(path: Path) -> None:
    """Inside one there is no other transaction to open."""
    manager = make(path)

    @manager.mutation
    def meddle(ctx: MutationContext) -> None:
        manager.over(ctx.db)

    with pytest.raises(CalledInside):
        manager.sync.run_mutation(meddle())
    manager.sync.close()

"""What a mutation does to the connection that it shares with all others harms none of them.

Whatever of it is refused fails the step that asked for it, with the reason; the rest is undone when
the step ends. Its neighbours in the same commit, and all that comes later, notice nothing.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.managers import LONG, make, run

from perdure import MutationContext, Step, StepFailed, WorkflowManager

#: What a step may do, and what is taken back at its end.
ALLOWED: dict[str, Callable[[sqlite3.Connection], Any]] = {
    "row_factory": lambda db: setattr(db, "row_factory", lambda *_: 1 / 0),
    "text_factory": lambda db: setattr(db, "text_factory", lambda _: 1 / 0),
    "create_function": lambda db: db.create_function("mine", 1, lambda _: 1 / 0),
    "create_collation": lambda db: db.create_collation("mine", lambda a, b: 1 // 0),
    "iterdump": lambda db: list(db.iterdump()),
    "an unread cursor": lambda db: db.execute("SELECT * FROM perdure_workflows"),
    "an unread write": lambda db: db.execute("INSERT INTO notes VALUES ('x') RETURNING text"),
    "savepoints": lambda db: db.execute("SAVEPOINT s"),
    "serialize": lambda db: db.serialize(),
}

#: What is refused.
REFUSED: dict[str, Callable[[Any], Any]] = {
    "create_function of SQLite's": lambda db: db.create_function("max", 1, lambda _: None),
    "set_authorizer": lambda db: db.set_authorizer(None),
    "set_trace_callback": lambda db: db.set_trace_callback(print),
    "set_progress_handler": lambda db: db.set_progress_handler(lambda: 1, 1),
    "interrupt": lambda db: db.interrupt(),
    "close": lambda db: db.close(),
    "backup": lambda db: db.backup(db),
    "commit": lambda db: db.commit(),
    "rollback": lambda db: db.rollback(),
    "setlimit": lambda db: db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1),
    "isolation_level": lambda db: setattr(db, "isolation_level", None),
    "executescript": lambda db: db.executescript("SELECT 1"),
    "BEGIN": lambda db: db.execute("BEGIN"),
    "COMMIT": lambda db: db.execute("COMMIT"),
    "PRAGMA foreign_keys": lambda db: db.execute("PRAGMA foreign_keys = OFF"),
    "PRAGMA query_only": lambda db: db.execute("PRAGMA query_only = ON"),
    "PRAGMA journal_mode": lambda db: db.execute("PRAGMA journal_mode = DELETE"),
    "PRAGMA synchronous": lambda db: db.execute("PRAGMA synchronous = OFF"),
    "PRAGMA writable_schema": lambda db: db.execute("PRAGMA writable_schema = ON"),
    "ATTACH": lambda db: db.execute("ATTACH ':memory:' AS other"),
    "DETACH": lambda db: db.execute("DETACH main"),
    "a temporary table": lambda db: db.execute("CREATE TEMP TABLE perdure_steps (x)"),
}

if hasattr(sqlite3.Connection, "enable_load_extension"):  # not every Python has it
    REFUSED["enable_load_extension"] = lambda db: db.enable_load_extension(True)


def define(manager: WorkflowManager) -> dict[str, Any]:
    @manager.mutation
    def meddle(ctx: MutationContext, what: str) -> str:
        ctx.db.execute("INSERT INTO notes VALUES ('meddler')")
        (ALLOWED | REFUSED)[what](ctx.db)
        return "done"

    @manager.mutation
    def note(ctx: MutationContext, text: str) -> list[str]:
        ctx.db.execute("CREATE TABLE IF NOT EXISTS notes (text TEXT)")
        ctx.db.execute("INSERT INTO notes VALUES (?)", (text,))
        return [text for (text,) in ctx.db.execute("SELECT text FROM notes ORDER BY rowid")]

    @manager.workflow
    async def meddling(step: Step, what: str) -> list[Any]:
        await step.run_mutation(note("first"))
        steps = (note("before"), meddle(what), note("after"))
        found = await asyncio.gather(*map(step.run_mutation, steps), return_exceptions=True)
        outcome = found[1]
        if isinstance(outcome, StepFailed):
            outcome = outcome.error.type
        return [outcome, await step.run_mutation(note("last"))]

    return {"meddling": meddling, "note": note}


def meddled(path: Path, what: str) -> tuple[Any, list[str]]:
    """What the meddling step came to, and the notes that another workflow finds afterwards."""
    manager = make(path)
    defined = define(manager)

    async def test(m: WorkflowManager) -> Any:
        outcome, notes = await m.result(await m.start(defined["meddling"](what)), timeout=LONG)
        assert await m.run_mutation(defined["note"]("other")) == [*notes, "other"]
        return outcome, notes

    outcome, notes = run(test, manager)
    with sqlite3.connect(path) as reader:  # all of it is in the file
        found = [text for (text,) in reader.execute("SELECT text FROM notes ORDER BY rowid")]
    reader.close()
    assert found == [*notes, "other"]
    return outcome, notes


@pytest.mark.parametrize("what", ALLOWED)
def test_what_a_step_leaves_behind_is_taken_back(tmp_path: Path, what: str) -> None:
    """Its own writes are kept, as are those of its neighbours."""
    outcome, notes = meddled(tmp_path / "app.db", what)
    assert outcome == "done"
    kept = ["meddler", "x"] if what == "an unread write" else ["meddler"]
    assert notes == ["first", "before", *kept, "after", "last"]


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_harm_others_fails_the_step(tmp_path: Path, what: str) -> None:
    """And that step alone: nothing of it is left."""
    outcome, notes = meddled(tmp_path / "app.db", what)
    assert outcome == "ConnectionMisuse"
    assert notes == ["first", "before", "after", "last"]

"""Workflows move from an SQLite file to a PostgreSQL server, in the middle of what they do."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from perdure import (
    ActionContext,
    MutationContext,
    Step,
    StoreError,
    StoreMoved,
    WorkflowManager,
    abandon_migration,
    define_event,
    migrate,
)
from perdure.store.postgres.moving import MovingIn
from perdure.store.sqlite import SCHEMA_VERSION
from perdure.store.sqlite_moving import MovingSqlite

go = define_event("go", int)


class App:
    """One application, on any store."""

    def __init__(self, store: str) -> None:
        manager = self.manager = WorkflowManager(store)
        mark = "?" if "://" not in store else "%s"

        @manager.mutation
        def note(ctx: MutationContext, text: str) -> None:
            ctx.db.execute(f"insert into notes values ({mark})", (text,))

        @manager.action
        async def twice(ctx: ActionContext, number: int) -> int:
            return 2 * number

        @manager.workflow
        async def child(step: Step, number: int) -> int:
            await step.run_mutation(note(f"child {number}"))
            return number + await step.await_event(go)

        @manager.workflow
        async def order(step: Step, number: int) -> list[int]:
            found = [await step.run_action(twice(number))]
            await asyncio.sleep(0.001)
            found.append(await step.run_workflow(child(number), workflow_id=f"child-{number}"))
            await step.run_mutation(note(f"order {number}"))
            return found

        @manager.workflow
        async def sleeper(step: Step) -> str:
            await step.sleep(timedelta(days=400))
            return "awake"

        self.order = order
        self.sleeper = sleeper


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with an ended workflow, one whose child waits for an event, and a sleeper."""
    found = tmp_path / "app.db"
    with closing(sqlite3.connect(found)) as db:
        db.execute("create table notes (text)")
    app = App(str(found))

    async def work() -> None:
        async with app.manager as manager:
            await manager.start(app.order(1), id="one")
            await manager.start(app.order(2), id="two")
            await manager.start(app.sleeper(), id="asleep")
            while not await _waits(manager, "child-1") or not await _waits(manager, "child-2"):  # noqa: ASYNC110 - it works in its own thread
                await asyncio.sleep(0.005)
            await manager.send_event(go, workflow_id="child-1", value=10)
            assert await manager.result("one") == [2, 11]
            await manager.update_config(max_parallelism=7)

    asyncio.run(work())
    return found


async def _waits(manager: WorkflowManager, workflow_id: str) -> bool:
    steps: Any = ()
    if [info async for info in _infos(manager, workflow_id)]:
        steps = await manager.list_steps(workflow_id)
    return any(step.kind == "event" for step in steps)


async def _infos(manager: WorkflowManager, workflow_id: str) -> Any:
    for info in await manager.list_workflows():
        if info.workflow_id == workflow_id:
            yield info


def go_on(address: str) -> None:
    """What is left to do is done on the new store, by a worker there."""
    with psycopg.connect(address) as db:
        db.execute("create table notes (text text)")
    app = App(address)

    async def work() -> None:
        async with app.manager as manager:
            assert await manager.result("one") == [2, 11]
            await manager.send_event(go, workflow_id="child-2", value=20)
            assert await manager.result("two", timeout=30) == [4, 22]
            (asleep,) = [i for i in await manager.list_workflows() if i.workflow_id == "asleep"]
            assert asleep.status.kind == "in_progress"
            assert (await manager.config()).max_parallelism == 7
            # Numbers go on where they were: nothing is given twice.
            await manager.start(app.order(3), id="three")
            await manager.cancel("asleep")

    asyncio.run(work())
    with psycopg.connect(address) as db:
        found = db.execute("select text from notes where text like 'order %'").fetchall()
    assert found == [("order 2",)]  # the note of order 1 was written before, in the other database


def test_what_is_in_progress_goes_on_there(path: Path, postgres_url: str) -> None:
    """With its history, its children, its timers, and the setting; all else stays behind."""
    told: list[tuple[str, int, int]] = []
    report = migrate(str(path), postgres_url, progress=lambda *each: told.append(each))
    assert report.workflows == 5
    assert report.other_tables == ("notes",)
    assert ("perdure_workflows", 5, 5) in told
    go_on(postgres_url)
    with pytest.raises(StoreMoved, match="have moved to postgresql://"):
        App(str(path)).manager.run(until_idle=True)
    assert migrate(str(path), postgres_url).rows == {}  # once more: nothing to do


def test_a_move_that_breaks_off_goes_on_or_is_taken_back(path: Path, postgres_url: str) -> None:
    """Nothing has arrived by then; and when all has, it cannot be taken back any more."""

    def break_off(table: str, count: int, total: int) -> None:
        if table == "perdure_steps":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        migrate(str(path), postgres_url, progress=break_off)
    with psycopg.connect(postgres_url) as db:
        assert db.execute("select count(*) from perdure_workflows").fetchone() == (0,)
    with pytest.raises(StoreMoved, match="are being moved"):
        App(str(path)).manager.run(until_idle=True)
    with pytest.raises(StoreMoved, match="not to postgresql://elsewhere/app"):
        migrate(str(path), "postgresql://elsewhere/app")
    abandon_migration(str(path), postgres_url)
    with pytest.raises(StoreError, match="no move was begun"):
        abandon_migration(str(path), postgres_url)
    assert migrate(str(path), postgres_url).workflows == 5
    with pytest.raises(StoreMoved, match="have arrived"):
        abandon_migration(str(path), postgres_url)


def test_a_move_that_died_after_its_commit_is_completed(path: Path, postgres_url: str) -> None:
    """All rows are there, and the file does not know it yet: nothing arrives a second time."""
    with MovingSqlite(str(path), SCHEMA_VERSION) as leaving:
        WorkflowManager(postgres_url).run(until_idle=True)  # makes the tables
        shown = postgres_url.replace("%2F", "/")
        move = leaving.begin("token", shown)
        with MovingIn(postgres_url, move.token) as arriving:
            for table in ("perdure_workflows",):
                rows = leaving.rows(table)
                assert list(arriving.copy(table, leaving.columns(table), rows)) == [1, 2, 3, 4, 5]
    assert migrate(str(path), postgres_url).rows == {}
    with MovingSqlite(str(path), SCHEMA_VERSION) as leaving:
        assert leaving.move is not None and leaving.move.is_done
    with psycopg.connect(postgres_url) as db:
        assert db.execute("select count(*) from perdure_workflows").fetchone() == (5,)


def test_it_moves_only_into_what_is_empty(path: Path, postgres_url: str) -> None:
    """The file is left as it was: it can be moved elsewhere."""
    app = App(postgres_url)

    async def start() -> None:
        async with app.manager.client() as manager:
            await manager.start(app.sleeper(), id="asleep")

    asyncio.run(start())
    with pytest.raises(StoreError, match="it holds workflows already, such as 'asleep'"):
        migrate(str(path), postgres_url)
    with pytest.raises(StoreError, match="no move was begun"):
        abandon_migration(str(path), postgres_url)


@pytest.mark.parametrize(
    ("source", "target", "named"),
    [
        ("postgresql://a/b", "postgresql://a/b", "source="),
        (":memory:", "postgresql://a/b", "source="),
        ("app.db", "other.db", "target="),
        ("app.db", "postgresql://a/b?lease=never", "lease="),
    ],
)
def test_addresses_that_make_no_sense(source: str, target: str, named: str) -> None:
    """Are named, before anything is opened."""
    with pytest.raises(ValueError, match=named):
        migrate(source, target)


def test_the_command_moves(path: Path, postgres_url: str) -> None:
    """It tells what has moved and what has not, for people or for programs."""

    def perdure(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "perdure", "migrate", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )

    done = perdure(str(path), postgres_url, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["workflows"], told["other_tables"]) == (5, ["notes"])
    again = perdure(str(path), postgres_url)
    assert again.stdout == f"the workflows of {path} had moved already\n"
    late = perdure(str(path), postgres_url, "--abandon")
    assert (late.returncode, "StoreMoved" in late.stderr) == (1, True)
    wrong = perdure(str(path), "elsewhere.db")
    assert wrong.returncode == 2
    assert "target='elsewhere.db'" in wrong.stderr
    go_on(postgres_url)

"""An SQLite store that moves out: closed to others at once, read whole, given back if need be."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from perdure import (
    MutationContext,
    Step,
    StoreError,
    StoreMoved,
    StoreNotFound,
    StoreVersionError,
    Workflow,
    WorkflowManager,
)
from perdure.store.liveness import LockFiles
from perdure.store.sqlite_moving import OWN_NUMBERS, TABLES, MovingSqlite
from perdure.store.sqlite_schema import SCHEMA_VERSION


def application(path: Path) -> WorkflowManager:
    manager = WorkflowManager(str(path))

    @manager.mutation
    def note(ctx: MutationContext, text: str) -> None:
        ctx.db.execute("create table if not exists notes (text)")
        ctx.db.execute("insert into notes values (?)", (text,))

    @manager.workflow
    async def order(step: Step) -> str:
        await step.run_mutation(note("begun"))
        value: str = await step.await_event("go")
        return value

    return manager


def start(manager: WorkflowManager, id_: str) -> None:
    order = manager.registry.get("order")
    assert isinstance(order, Workflow)

    async def run() -> None:
        async with manager.client():
            await manager.start(order(), id=id_)

    asyncio.run(run())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with two workflows, one of which waits for an event, and no worker."""
    found = tmp_path / "app.db"
    manager = application(found)
    start(manager, "one")
    manager.run(until_idle=True)
    start(manager, "two")
    return found


def test_whoever_has_it_open_finds_out(path: Path) -> None:
    """A client that was there before writes nothing any more, and is told where to go."""
    manager = application(path)
    order = manager.registry.get("order")
    assert isinstance(order, Workflow)

    async def run() -> None:
        async with manager.client():
            with MovingSqlite(str(path), SCHEMA_VERSION) as moving:
                moving.begin("token", "postgresql://new")
                with pytest.raises(StoreMoved, match=r"are being moved to postgresql://new"):
                    await manager.start(order(), id="three")
                moving.finish()
            with pytest.raises(StoreMoved, match=r"app\.db: its .* moved to postgresql://new"):
                await manager.send_event("go", workflow_id="one", value="x")

    asyncio.run(run())
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("select count(*) from perdure_workflows").fetchone() == (2,)
        assert db.execute("select count(*) from perdure_events").fetchone() == (0,)


@pytest.mark.parametrize("is_done", [False, True])
def test_nobody_opens_it_again(path: Path, is_done: bool) -> None:
    """Neither a worker nor a client, nor a transaction of the user's own."""
    with MovingSqlite(str(path), SCHEMA_VERSION) as moving:
        moving.begin("token", "postgresql://new")
        if is_done:
            moving.finish()
    manager = application(path)
    with pytest.raises(StoreMoved, match="postgresql://new"):
        manager.run(until_idle=True)
    with pytest.raises(StoreMoved, match="postgresql://new"):
        start(manager, "three")
    with closing(sqlite3.connect(path)) as db:
        db.execute("begin immediate")
        with pytest.raises(StoreMoved, match="postgresql://new"):
            manager.over(db)


def test_a_move_that_is_abandoned_leaves_no_trace(path: Path) -> None:
    """All that is in the file is what was there, and work goes on."""
    with closing(sqlite3.connect(path)) as db:
        before = list(db.iterdump())
    with MovingSqlite(str(path), SCHEMA_VERSION) as moving:
        moving.begin("token", "postgresql://new")
        found = moving.move
        assert found is not None
        assert (found.token, found.target, found.is_done) == ("token", "postgresql://new", False)
        moving.abandon()
        assert moving.move is None
    with closing(sqlite3.connect(path)) as db:
        assert list(db.iterdump()) == before
    application(path).run(until_idle=True)


def test_it_is_read_whole_and_in_order(path: Path) -> None:
    """Each table of the schema but the settings, each column but the numbers of its own."""
    with closing(sqlite3.connect(path)) as db:
        tables = {
            name: [row[1] for row in db.execute(f"pragma table_info({name})")]
            for (name,) in db.execute("select name from sqlite_master where type = 'table'")
            if name.startswith("perdure_") and name != "perdure_config"
        }
        everything = {name: db.execute(f"select * from {name}").fetchall() for name in tables}
    assert everything["perdure_steps"] != []
    with MovingSqlite(str(path), SCHEMA_VERSION) as moving:
        assert set(TABLES) == set(tables)
        for name, columns in tables.items():
            own = OWN_NUMBERS.get(name)
            assert moving.columns(name) == [each for each in columns if each != own]
            rows = list(moving.rows(name))
            assert len(rows) == moving.count(name) == len(everything[name])
        assert [row[0] for row in moving.rows("perdure_workflows")] == ["one", "two"]
        assert moving.settings.max_parallelism == 100
        assert moving.settings.next_epoch > 2
        assert moving.other_tables() == ["notes"]


def test_it_stays_where_it_is_while_a_worker_works(path: Path) -> None:
    """The worker is named; one that is dead is no matter."""
    locks = LockFiles(Path(f"{path}.workers"))
    locks.hold("living")
    with closing(sqlite3.connect(path)) as db:
        for worker in ("living", "dead"):
            sql = "insert into perdure_workers (id, started_at) values (?, 0)"
            db.execute(sql, (worker,))
        db.commit()
    with MovingSqlite(str(path), SCHEMA_VERSION) as moving:
        with pytest.raises(StoreError, match=r"a worker is still at work \(living\): stop them"):
            moving.begin("token", "postgresql://new")
        assert moving.move is None
        locks.close()
        moving.begin("token", "postgresql://new")


def test_what_is_no_store_of_ours_does_not_move(tmp_path: Path) -> None:
    """No file, no tables, or those of another release: nothing is made, nothing is changed."""
    missing = tmp_path / "missing.db"
    with pytest.raises(StoreNotFound, match="there is no such file"):
        MovingSqlite(str(missing), SCHEMA_VERSION)
    assert not missing.exists()
    empty = tmp_path / "empty.db"
    sqlite3.connect(empty).close()
    empty.touch()
    with pytest.raises(StoreNotFound, match="no tables in it"):
        MovingSqlite(str(empty), SCHEMA_VERSION)
    start(application(tmp_path / "app.db"), "one")
    with pytest.raises(StoreVersionError, match="knows 99"):
        MovingSqlite(str(tmp_path / "app.db"), 99)
    text = tmp_path / "text.db"
    text.write_text("no database at all, just some text that is long enough to be one" * 20)
    with pytest.raises(StoreError, match=r"text\.db"):
        MovingSqlite(str(text), SCHEMA_VERSION)

"""Workflows move from an SQLite file to a PostgreSQL server, in the middle of what they do."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import pytest
from tests.migrated import App, go_on, make_file

from perdure import (
    StoreError,
    StoreMoved,
    WorkflowManager,
    abandon_migration,
    migrate,
)
from perdure.store.postgres.moving import MovingIn
from perdure.store.sqlite_moving import MovingSqlite
from perdure.store.sqlite_schema import SCHEMA_VERSION


@pytest.fixture
def path(tmp_path: Path) -> Path:
    make_file(tmp_path / "app.db")
    return tmp_path / "app.db"


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

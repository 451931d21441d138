"""Versions of the tables: told apart, brought up to date whole, and never written by older code."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from tests.managers import LONG, call
from tests.store.places import Place, newer

from perdure import ActionContext, Step, StoreVersionError, WorkflowManager
from perdure.store.versions import Schema

#: The tables as each released version of them has made them.
RELEASED = Path(__file__).parent / "schemas"


@pytest.fixture
def schema(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Schema:
    """That of a perdure to come, with a table more."""
    folder = tmp_path_factory.mktemp("schema")
    return newer(place, folder, "CREATE TABLE perdure_more (x integer)")


# --- which version is which


def test_versions_are_told_apart(tmp_path: Path) -> None:
    """Our own passes; of any other one it is said what to do."""
    known = Schema("sqlite", 3, tmp_path)
    known.check(3, "x")
    for version, match in (
        (4, "x: its schema is version 4, newer than 3, .* upgrade perdure in this process"),
        (2, "x: its schema is version 2, older than 3, .* start a worker of this perdure"),
        (0, "version 0, which .* does not know: restore a backup"),
        (None, "version None, which .* does not know"),
    ):
        with pytest.raises(StoreVersionError, match=match):
            known.check(version, "x")


def test_older_tables_are_read_by_newer_code(tmp_path: Path) -> None:
    """Only newer ones, and strangers, cannot be."""
    known = Schema("sqlite", 3, tmp_path)
    for version in (1, 2, 3):
        known.check_readable(version, "x")
    strangers: tuple[int | None, ...] = (0, 4, None)
    for stranger in strangers:
        with pytest.raises(StoreVersionError):
            known.check_readable(stranger, "x")


def test_the_way_has_each_version_once_in_order(tmp_path: Path) -> None:
    """Statements of the files in between, those of one file in its order."""
    (tmp_path / "sqlite-2.sql").write_text("A;\n-- why\nB;\n")
    (tmp_path / "sqlite-3.sql").write_text("C\n  c;\n")
    known = Schema("sqlite", 3, tmp_path)
    assert known.way_from(1) == ["A", "-- why\nB", "C\n  c"]
    assert known.way_from(2) == ["C\n  c"]
    assert known.way_from(3) == []


# --- on a database


def test_older_tables_become_the_newest(place: Place, schema: Schema) -> None:
    """They are those that are made at once where there are none; what is in them stays."""
    older = place.store()
    older.open(max_parallelism=7)
    older.close()
    store = place.store(schema=schema)
    store.open(max_parallelism=9)
    config = store.reader().config()
    assert (config.schema_version, config.max_parallelism) == (schema.version, 7)
    store.close()
    assert place.execute("SELECT * FROM perdure_more") == []


def test_tables_of_each_released_version_become_those_of_today(
    place: Place, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """To the letter, with what is in them."""
    newest = place.store()
    newest.open(max_parallelism=None)
    newest.close()
    wanted = place.tables()
    for version in range(1, place.schema.version):
        place = place.emptied()
        folder = tmp_path_factory.mktemp("schema")
        text = (RELEASED / f"{place.kind}-{version}.sql").read_text("utf-8")
        (folder / f"{place.kind}.sql").write_text(text)
        older = place.store(schema=Schema(place.kind, version, folder))
        older.open(max_parallelism=5)
        older.close()
        assert place.tables() != wanted
        store = place.store()
        store.open(max_parallelism=None)
        config = store.reader().config()
        store.close()
        assert (config.schema_version, config.max_parallelism) == (place.schema.version, 5)
        assert place.tables() == wanted


def test_the_way_is_gone_once(place: Place, schema: Schema) -> None:
    """Of several that find older tables at once, one brings them up to date."""
    older = place.store()
    older.open(max_parallelism=None)
    older.close()
    stores = [place.store(schema=schema) for _ in range(4)]
    threads = [threading.Thread(target=each.open, kwargs={"max_parallelism": 3}) for each in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    versions = [each.reader().config().schema_version for each in stores]
    assert versions == [schema.version] * 4
    for each in stores:
        each.close()


def test_a_way_that_fails_leaves_what_was(
    place: Place, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """All statements of an upgrade take effect, or none; older code goes on then."""
    older = place.store()
    older.open(max_parallelism=None)
    before = place.tables()
    folder = tmp_path_factory.mktemp("schema")
    wrong = newer(
        place,
        folder,
        "CREATE TABLE perdure_more (x integer)",
        "CREATE INDEX perdure_wrong ON perdure_nothing (x)",
    )
    store = place.store(schema=wrong)
    with pytest.raises(Exception, match="perdure_nothing"):
        store.open(max_parallelism=None)
    assert place.tables() == before
    with older.transaction() as tx:
        tx.check_schema()
    older.close()


def test_what_workers_owned_wants_to_be_taken_up(place: Place, schema: Schema) -> None:
    """All of them are struck off, and with them what only they could read."""
    older = place.store()
    older.open(max_parallelism=None)
    with older.transaction() as tx:
        tx.add_worker("me", 1)
    place.execute(
        "INSERT INTO perdure_workflows (id, name, arguments, rules, created_at, start_at, status,"
        " epoch, owner) VALUES ('a', 'n', '{}', 1, 1, 1, 'in_progress', 1, 'me')"
    )
    place.execute(
        "INSERT INTO perdure_inbox (workflow_id, worker, kind, body, accepted_at) VALUES"
        " ('a', 'me', 'revoked', '{}', 1), ('a', NULL, 'event', '{}', 1)"
    )
    store = place.store(schema=schema)
    store.open(max_parallelism=None)
    reader = store.reader()
    ((now,),) = place.execute("SELECT wake_at FROM perdure_workflows")
    assert now > 1_000_000_000_000
    assert reader.claimable(["n"], now, 9) == ["a"]
    assert reader.workers() == []
    assert place.execute("SELECT kind FROM perdure_inbox") == [("event",)]
    with older.transaction() as tx:
        assert tx.is_fenced("me")
    store.close()
    older.close()


@pytest.mark.parametrize("access", ["write", "read"])
def test_only_who_may_create_upgrades(place: Place, schema: Schema, access: str) -> None:
    """Who only reads reads older tables; who only writes is told who upgrades them."""
    older = place.store()
    older.open(max_parallelism=None)
    older.close()
    before = place.tables()
    store = place.store(schema=schema, access=access)  # type: ignore[arg-type]
    if access == "read":
        store.open(max_parallelism=None)
        assert store.reader().config().schema_version == schema.version - 1
        store.close()
    else:
        with pytest.raises(StoreVersionError, match=r"older than .* start a worker"):
            store.open(max_parallelism=None)
    assert place.tables() == before


def test_a_transaction_of_the_users_own_upgrades_nothing(place: Place, schema: Schema) -> None:
    """`over` refuses older tables: an upgrade keeps everybody waiting until its commit."""
    older = place.store()
    older.open(max_parallelism=None)
    older.close()
    connection = place.connect()
    with pytest.raises(StoreVersionError, match=r"older than .* start a worker"):
        place.store(schema=schema).guest(connection, max_parallelism=None)
    connection.rollback()
    connection.close()


# --- processes of an older perdure that are at work


def make(place: Place) -> tuple[WorkflowManager, asyncio.Event]:
    """A manager whose workflow waits for an action that says that it runs."""
    manager = WorkflowManager(place.address)
    runs = asyncio.Event()

    @manager.action
    async def wait(ctx: ActionContext) -> None:
        runs.set()
        await asyncio.Event().wait()

    @manager.workflow
    async def waiting(step: Step) -> None:
        await step.run_action(wait())

    return manager, runs


def upgrade(place: Place, schema: Schema) -> None:
    """What the first worker of a newer perdure does."""
    store = place.store(schema=schema)
    store.open(max_parallelism=None)
    store.close()


def test_a_worker_of_older_code_stops(place: Place, schema: Schema) -> None:
    """It finds itself struck off, and then the newer tables: it says so, and writes nothing."""
    manager, runs = make(place)

    async def main() -> None:
        async with manager:
            await manager.start(call(manager, "waiting"), id="a")
            await asyncio.wait_for(runs.wait(), LONG)
            await asyncio.to_thread(upgrade, place, schema)
            await asyncio.wait_for(manager.result("a"), LONG)

    with pytest.raises(StoreVersionError, match=r"newer than .* upgrade perdure in this process"):
        asyncio.run(main())
    assert place.execute("SELECT id FROM perdure_workers") == []
    assert place.execute("SELECT status, owner FROM perdure_workflows") == [("in_progress", None)]
    # The attempt that was under way is for whoever takes the workflow up: nothing tells its end.
    assert place.execute("SELECT state FROM perdure_steps") == [("started",)]


def test_a_client_of_older_code_is_refused(place: Place, schema: Schema) -> None:
    """It has no row to be struck off: each of its transactions looks at the version."""
    manager, _ = make(place)

    async def main() -> None:
        async with manager.client():
            await manager.start(call(manager, "waiting"), id="a")
            await asyncio.to_thread(upgrade, place, schema)
            await asyncio.wait_for(manager.start(call(manager, "waiting"), id="b"), LONG)

    with pytest.raises(StoreVersionError, match=r"newer than .* upgrade perdure in this process"):
        asyncio.run(main())
    assert place.execute("SELECT id FROM perdure_workflows") == [("a",)]

"""The SQLite database in memory that serves run after run: nothing is left of the last one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import attrs
import pytest
from tests.sim.corners import SPOILERS
from tests.sim.scenes import EVENTS, REFERENCE, TRANSFERS, ledger

from perdure.errors import NotOpen
from perdure.store.base import Store
from perdure_sim.explore.explorer import run
from perdure_sim.faults.plan import FaultPlan
from perdure_sim.stores.sqlite_memory import SqliteMemory


@pytest.fixture
def disks() -> Iterator[SqliteMemory]:
    memory = SqliteMemory()
    yield memory
    memory.close()


def opened(disks: SqliteMemory, max_parallelism: int | None = None) -> Store:
    """A store on a disk of its own."""
    store = disks().open()
    store.open(max_parallelism=max_parallelism)
    return store


def make_shelf(db: sqlite3.Connection) -> None:
    """A table with a row that each run finds again."""
    db.execute("CREATE TABLE shelf (book TEXT)")
    db.execute("INSERT INTO shelf VALUES ('first')")


def test_each_run_finds_what_the_application_has_set_up(disks: SqliteMemory) -> None:
    """Also after rows were changed, and after tables were."""
    for change in ("DELETE FROM shelf", "ALTER TABLE shelf ADD COLUMN author TEXT", "SELECT 1"):
        disk = disks()
        disk.prepare(make_shelf)
        db = disk.connect()
        assert db.execute("SELECT * FROM shelf").fetchall() == [("first",)]
        db.execute(change)
        db.commit()
        db.close()
        disk.close()


def test_another_application_finds_its_own_tables(disks: SqliteMemory) -> None:
    """And not those of the one before."""
    first = disks()
    first.prepare(make_shelf)
    first.connect().close()
    second = disks()
    db = second.connect()
    names = {name for (name,) in db.execute("SELECT name FROM sqlite_schema")}
    db.close()
    assert "shelf" not in names
    assert "perdure_workflows" in names


def test_what_a_dead_process_had_not_committed_is_undone(disks: SqliteMemory) -> None:
    """Its connection serves the next one."""
    disk = disks()
    store = disk.open()
    store.open(max_parallelism=7)
    store.transaction().__enter__().set_max_parallelism(3)
    disk.crash(store)
    other = disk.open()
    other.open(max_parallelism=9)
    assert other.reader().config().max_parallelism == 7
    other.close()


def test_the_settings_of_one_run_are_not_those_of_the_next(disks: SqliteMemory) -> None:
    """The number of actions at once is that of the first to open the store."""
    found = []
    for limit in (5, None, 6):
        store = opened(disks, limit)
        found.append(store.reader().config().max_parallelism)
        store.close()
    assert found == [5, 100, 6]


def test_other_processes_see_that_one_has_committed(disks: SqliteMemory) -> None:
    """As in a file; a change of one's own is none."""
    disk = disks()
    one, other = disk.open(), disk.open()
    for store in (one, other):
        store.open(max_parallelism=None)
        store.has_changed()
    with one.transaction() as tx:
        tx.set_max_parallelism(1)
    assert (one.has_changed(), other.has_changed(), other.has_changed()) == (False, True, False)
    one.close()
    other.close()


def test_a_living_worker_can_be_taken_for_dead(disks: SqliteMemory) -> None:
    """And one whose process has ended is dead."""
    disk = disks()
    stores = [disk.open() for _ in range(3)]
    for number, store in enumerate(stores):
        store.open(max_parallelism=None)
        store.hold_worker(f"w{number}")
    disk.lose_lease("w0")
    disk.crash(stores[1])
    assert stores[2].dead_workers(["w0", "w1", "w2"]) == ["w0", "w1"]
    stores[2].release_worker("w2")
    assert stores[2].dead_workers(["w2"]) == ["w2"]
    stores[0].close()
    stores[2].close()


def test_a_closed_store_reads_no_more(disks: SqliteMemory) -> None:
    """Nor does a reader that it has given out."""
    store = opened(disks)
    reader = store.reader()
    store.close()
    with pytest.raises(NotOpen):
        reader.config()
    with pytest.raises(NotOpen):
        store.reader()


@pytest.mark.parametrize("plan", ["", "pd1:w0/decided#2=zombie:40s", "pd1:w0/commit#5=lost_ack*3"])
def test_runs_on_one_database_are_as_runs_on_new_ones(disks: SqliteMemory, plan: str) -> None:
    """The same trace, whatever ran before."""
    fresh = SqliteMemory()
    alone = run(TRANSFERS, FaultPlan.parse(plan), fresh)
    fresh.close()
    for scenario in (SPOILERS, REFERENCE, TRANSFERS, EVENTS):
        assert run(scenario, FaultPlan(), disks).failure is None
    again = run(TRANSFERS, FaultPlan.parse(plan), disks)
    assert (alone.failure, again.failure) == (None, None)
    assert again.world.trace.digest() == alone.world.trace.digest()
    assert again.outcomes == alone.outcomes


def test_the_ledger_is_read_as_it_is_in_the_end(disks: SqliteMemory) -> None:
    """By a check of a scenario, before the world is closed."""
    entries: list[str] = []
    scenario = attrs.evolve(TRANSFERS, check=lambda world: entries.extend(ledger(world)))
    assert run(scenario, FaultPlan(), disks).failure is None
    assert "a taken" in entries

"""The store in memory: the contract, and what happens to it in a simulation."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace
from tests.sim.samples import STARTED, fill, letter, look, new, opened, update, workflow

from perdure.core.journal import TickRecord
from perdure.core.messages import SentEvent
from perdure.errors import ConnectionMisuse, NotOpen, StoreBusy, StoreError, StoreVersionError
from perdure.store.base import StepWrite, Transaction
from perdure.store.sqlite import SqliteStore
from perdure_sim import check_store
from perdure_sim.conformance.bench import run_step
from perdure_sim.stores.memory import MemoryDatabase, MemoryStore
from perdure_sim.stores.memory_users import image_of


class Stop(Exception):
    """Ends a block that is to be undone."""


def write_everything(tx: Transaction) -> None:
    """Every write there is, of rows that `fill` has made and of new ones."""
    tx.set_max_parallelism(3)
    tx.take_epochs(5)
    tx.take_event_sequence()
    tx.add_worker("v", 1)
    tx.set_permits("w", 1, 2)
    tx.insert_workflows([workflow("d", wake_at=1)])
    assert tx.update_workflows([update(workflow("a", owner="v", epoch=2))]) == set()
    assert tx.release_workflows("v", 3, is_dead=True) == 1
    tx.wake("b", 2)
    assert tx.wake_waiting(["a", "b"], 1)
    tx.put_steps([new(run_step(2)), StepWrite(workflow_id="a", record=run_step(0), is_new=False)])
    tx.put_ticks([("a", 2, 6), ("d", 1, 1)])
    tx.put_event("a", SentEvent(event_id="f", name="e"), 1)
    tx.consume_event("a", "e", 0)
    tx.put_inbox([letter("d")])
    tx.clear_inbox(["a"])
    tx.delete_inbox([3])
    tx.remove_worker("w")
    assert tx.run_by("w") == [("a", run_step(1, **STARTED))]


# --- the contract ---------------------------------------------------------------------------------


def test_the_store_keeps_the_contract(database: MemoryDatabase) -> None:
    """It does all that the engine relies on, with two stores on one database, and once more on
    what the first run has left."""
    for _ in range(2):
        check_store(lambda: MemoryStore(database))


def test_values_are_kept_and_not_copied(database: MemoryDatabase) -> None:
    """What comes back of a step is the very value that was put: nothing is encoded."""
    store = opened(database)
    fill(store)
    record = run_step(5)
    with store.transaction() as tx:
        tx.put_steps([new(record)])
    assert store.reader().load(["a"])[0].steps[-1] is record


@pytest.mark.parametrize(
    "changed",
    [
        {"asked_position": 3},
        {"asked_at": 3},
        {"asked_epoch": 3},
        {"child_id": "x"},
        {"command": replace(run_step(0).command, name="other")},
    ],
    ids=str,
)
def test_what_was_asked_stays(changed: dict[str, Any], database: MemoryDatabase) -> None:
    """As in SQL, an update of a step leaves alone what is written once."""
    store = opened(database)
    fill(store)
    record = replace(store.reader().load(["a"])[0].steps[0], state="ready")
    with store.transaction() as tx:
        other = replace(record, **changed)
        tx.put_steps([StepWrite(workflow_id="a", record=other, is_new=False)])
    assert store.reader().load(["a"])[0].steps[0] == record


def test_an_update_makes_nothing(database: MemoryDatabase) -> None:
    """As in SQL, an update of what is not there does nothing, and none writes a header."""
    store = opened(database)
    fill(store)
    before = database.snapshot()
    state = workflow("a", owner="w", parent_id="p", parent_number=1)
    with store.transaction() as tx:
        assert tx.update_workflows([update(state)]) == set()
        tx.put_steps(
            StepWrite(workflow_id=workflow_id, record=run_step(9), is_new=False)
            for workflow_id in ("a", "gone")
        )
        tx.set_permits("gone", 1, 1)
        tx.remove_worker("gone")
        tx.wake("gone", 1)
    assert database.snapshot() == before


def test_the_mail_of_a_removed_worker_goes_with_it(database: MemoryDatabase) -> None:
    """Nobody would ever read it; what is for the owner of a workflow stays."""
    store = opened(database)
    fill(store)
    with store.transaction() as tx:
        tx.release_workflows("w", 1, is_dead=False)
        tx.remove_worker("w")
    assert [row.worker for row in database.snapshot().inbox.values()] == [None, None]


# --- rolling back ---------------------------------------------------------------------------------


def test_a_rollback_restores_everything(database: MemoryDatabase) -> None:
    """After a block that raises all rows, sequences, orders and indexes are as before, and the
    same writes can be made again, with the same numbers."""
    store = opened(database)
    fill(store)
    before, seen = database.snapshot(), look(store.reader())
    inside: list[Any] = []
    for _ in range(2):
        with contextlib.suppress(Stop), store.transaction() as tx:
            write_everything(tx)
            inside.append(look(tx))
            raise Stop
        assert database.snapshot() == before
        assert look(store.reader()) == seen
    assert inside[0] == inside[1] != seen
    with store.transaction() as tx:
        write_everything(tx)
    assert look(store.reader()) == inside[0]
    assert database.snapshot() != before


def test_failed_user_code_takes_only_its_own_writes_along(database: MemoryDatabase) -> None:
    """Rows that a verb wrote inside user code that failed are undone; what was written before and
    after it stays, and so do the rows of user code that caught the failure."""
    store = opened(database)
    fill(store)
    with store.transaction() as tx:
        tx.insert_workflows([workflow("before")])

        def fail() -> None:
            tx.run_engine_code(lambda: tx.insert_workflows([workflow("inner", wake_at=1)]))
            tx.run_engine_code(lambda: tx.delete_inbox([1]))
            raise Stop

        def outer() -> None:
            tx.run_engine_code(lambda: tx.insert_workflows([workflow("outer")]))
            with contextlib.suppress(Stop):
                tx.run_engine_code(lambda: tx.run_user_code(fail, read_only=False))

        tx.run_user_code(outer, read_only=False)
        with pytest.raises(Stop):
            tx.run_user_code(fail, read_only=False)
        tx.insert_workflows([workflow("after")])
    assert database.snapshot().order == ("a", "b", "c", "before", "outer", "after")
    assert len(store.reader().inbox_of("w")) == 2
    assert store.reader().claimable(["w"], 99, 99) == ["b"]


def test_a_snapshot_is_a_value(database: MemoryDatabase) -> None:
    """It is equal to another of the same rows, stays as it is when these change, and has nothing
    of a transaction that is still open."""
    store = opened(database)
    fill(store)
    before = database.snapshot()
    with store.transaction() as tx:
        write_everything(tx)
        assert database.snapshot() == before
        inside = look(tx)
    assert look(store.reader()) == inside
    after = database.snapshot()
    assert (sorted(after.steps["a"]), sorted(before.steps["a"])) == ([0, 1, 2], [0, 1])
    assert (after.ticks["a"][2], len(before.ticks["a"])) == (TickRecord(2, 6), 1)
    for name in after.__struct_fields__:
        assert getattr(before, name) != getattr(after, name)
    assert after == database.snapshot()


def test_readers_see_what_is_committed(database: MemoryDatabase) -> None:
    """While a transaction is open its own store's reader, too, sees what was there before."""
    store, other = opened(database), opened(database)
    fill(store)
    before = look(other.reader())
    with store.transaction() as tx:
        write_everything(tx)
        inside = look(tx)
        assert look(store.reader()) == look(other.reader()) == before != inside
        assert look(tx) == inside
    assert look(other.reader()) == inside


# --- one transaction at a time --------------------------------------------------------------------


@pytest.mark.parametrize("is_other", [False, True])
def test_transactions_must_not_overlap(is_other: bool, database: MemoryDatabase) -> None:
    """A second transaction is an error at once, whoever begins it, and does not harm the first."""
    store = opened(database)
    second = opened(database) if is_other else store
    whose = "another" if is_other else "this"
    with store.transaction() as tx:
        tx.add_worker("w", 1)
        with pytest.raises(RuntimeError, match=f"a transaction of {whose} store is open"):
            with second.transaction():
                pass
        tx.add_worker("v", 1)
    assert [row.worker_id for row in second.reader().workers()] == ["v", "w"]


def test_nothing_is_written_after_the_end(database: MemoryDatabase) -> None:
    """A transaction that somebody kept refuses to write, and changes nothing."""
    store = opened(database)
    with store.transaction() as tx:
        tx.add_worker("w", 1)
    before = database.snapshot()
    with pytest.raises(RuntimeError, match="written to after its end"):
        tx.add_worker("v", 1)
    with contextlib.suppress(Stop), store.transaction():
        raise Stop
    with pytest.raises(RuntimeError, match="written to after its end"):
        tx.take_epochs(1)
    assert database.snapshot() == before


def test_user_code_does_not_write_rows(database: MemoryDatabase) -> None:
    """A verb that forgets `run_engine_code` is found, as SQLite's fence finds it."""
    store = opened(database)
    fill(store)
    with contextlib.suppress(Stop), store.transaction() as tx:
        for write in (
            lambda: tx.insert_workflows([workflow("d")]),
            lambda: tx.update_workflows([update(workflow("a"))]),
            lambda: tx.put_steps([new(run_step(5))]),
        ):
            with pytest.raises(RuntimeError, match="must use run_engine_code"):
                tx.run_user_code(write, read_only=False)
        assert len(tx.states(["a", "d"])) == 1
        raise Stop


def test_a_query_writes_no_rows(database: MemoryDatabase) -> None:
    """Rows that the engine's code wrote inside a query are refused and undone, as in SQLite."""
    for store in (opened(database), SqliteStore(":memory:")):
        store.open(max_parallelism=None)
        with store.transaction() as tx:

            def call(tx: Transaction = tx) -> None:
                tx.run_engine_code(lambda: tx.add_worker("w", 1))

            with pytest.raises(ConnectionMisuse, match="a query must not write"):
                tx.run_user_code(call, read_only=True)
            assert tx.workers() == []
        store.close()


def test_an_error_of_sqlite_is_translated(database: MemoryDatabase) -> None:
    """Trouble of a database that leaves the block is a store error, as from the SQLite store."""
    store = opened(database)
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_BUSY, "SQLITE_BUSY"
    with pytest.raises(StoreBusy, match="memory"), store.transaction():
        raise error


# --- opening, closing, crashing -------------------------------------------------------------------


def test_the_first_store_makes_the_settings(database: MemoryDatabase) -> None:
    """The limit is that of the first opening; a second one finds what is there."""
    opened(database)
    other = MemoryStore(database)
    other.open(max_parallelism=9)
    assert other.reader().config().max_parallelism == 7
    assert not other.reads_need_engine
    assert other.shares_commits


def test_another_schema_is_told(database: MemoryDatabase) -> None:
    """`check_schema` raises once the schema is another one: a newer process has upgraded it."""
    store = opened(database)
    database._tables.settings["schema_version"] += 1
    with pytest.raises(StoreVersionError, match="its schema is version"), store.transaction() as tx:
        tx.check_schema()


def test_a_closed_store_says_so(database: MemoryDatabase) -> None:
    """A closed store is of no use, and no reader of it, until it is opened again."""
    store = MemoryStore(database)
    for _ in range(2):
        for call in (store.transaction, store.has_changed, lambda: store.hold_worker("w")):
            with pytest.raises(StoreError, match="is not open"):
                call()
        with pytest.raises(NotOpen, match="is not open"):
            store.reader()
        store.open(max_parallelism=None)
        reader = store.reader()
        assert reader.workers() == []
        store.close()
        with pytest.raises(NotOpen, match="closed meanwhile"):
            reader.workers()


def test_a_crash_undoes_what_was_not_committed(database: MemoryDatabase) -> None:
    """The disk keeps what was committed; the process, and its workers, are gone."""
    store, other = opened(database), opened(database)
    fill(store)
    store.hold_worker("w")
    other.hold_worker("v")
    before = database.snapshot()
    manager = store.transaction()
    tx = manager.__enter__()
    write_everything(tx)
    tx.run_user_code(lambda: tx.db.execute("CREATE TABLE t (x)"), read_only=False)
    database.crash(store)
    assert database.snapshot() == before
    assert database.user_tables.engine_execute("SELECT * FROM sqlite_master").fetchall() == []
    assert other.dead_workers(["v", "w"]) == ["w"]
    with pytest.raises(StoreError, match="its process has crashed"):
        store.transaction()
    with other.transaction() as tx:
        assert tx.release_workflows("w", 3, is_dead=True) == 1


def test_whoever_goes_on_after_the_crash_does_nothing(database: MemoryDatabase) -> None:
    """The block that was left standing cannot write, commit, or end somebody else's transaction,
    and is not told that it was committed; also when the store has been opened anew."""
    store, other = opened(database), opened(database)
    manager, late = store.transaction(), store.transaction()
    tx = manager.__enter__()
    database.crash(store)
    with other.transaction() as living:
        living.add_worker("w", 1)
        with pytest.raises(RuntimeError, match="after the crash of its store"):
            tx.add_worker("v", 1)
        assert not late.__exit__(Stop, Stop(), None)
    store.open(max_parallelism=None)
    with store.transaction() as living:
        with pytest.raises(NotOpen, match="nothing is stored"):
            manager.__exit__(None, None, None)
        living.add_worker("u", 1)
    assert [row.worker_id for row in other.reader().workers()] == ["u", "w"]


def test_a_crash_between_transactions(database: MemoryDatabase) -> None:
    """Another store's transaction goes on while a process crashes."""
    store, other = opened(database), opened(database)
    with other.transaction() as tx:
        tx.add_worker("w", 1)
        database.crash(store)
    assert len(other.reader().workers()) == 1


def test_workers_live_as_long_as_they_are_held(database: MemoryDatabase) -> None:
    """Who holds a worker, and nobody else, lets it go; a close lets all go; one holds it alone."""
    store, other = opened(database), opened(database)
    for worker in "uvw":
        store.hold_worker(worker)
    with pytest.raises(StoreError, match="'u' is held by another process"):
        other.hold_worker("u")
    other.release_worker("u")
    store.release_worker("v")
    assert other.dead_workers(["v", "x", "u", "w"]) == ["v", "x"]
    store.close()
    assert other.dead_workers(["u", "w"]) == ["u", "w"]


def test_a_lost_lease_makes_a_zombie(database: MemoryDatabase) -> None:
    """Others take the worker for dead, although its process goes on; what it does then, up to its
    end, is no harm, and nobody else of its process is dead."""
    store, other = opened(database), opened(database)
    fill(store)
    store.hold_worker("w")
    store.hold_worker("v")
    database.lose_lease("w")
    database.lose_lease("nobody")
    assert other.dead_workers(["v", "w"]) == ["w"]
    with other.transaction() as tx:
        tx.release_workflows("w", 3, is_dead=True)
        tx.remove_worker("w")
    with contextlib.suppress(Stop), store.transaction() as tx:
        stale = tx.update_workflows([update(workflow("a", owner="w"))], fence="w")
        assert stale == {"a"}
        raise Stop
    other.hold_worker("w")
    store.release_worker("w")
    assert other.dead_workers(["w"]) == []


def fail_in_user_code(tx: Transaction) -> None:
    def fail() -> None:
        tx.run_engine_code(lambda: tx.add_worker("x", 1))
        raise Stop

    with contextlib.suppress(Stop):
        tx.run_user_code(fail, read_only=False)


def test_changes_by_others_are_told_once(database: MemoryDatabase) -> None:
    """Only what another store has committed is news, and only if it has written something; for a
    store that was just opened everything is."""
    store, other = opened(database), opened(database)
    assert [store.has_changed(), store.has_changed()] == [True, False]
    assert other.has_changed()

    def told(write: Callable[[Transaction], object], *, by: MemoryStore = other) -> bool:
        with by.transaction() as tx:
            write(tx)
        return store.has_changed()

    assert told(lambda tx: tx.add_worker("w", 1))
    assert not told(lambda tx: tx.workers())
    assert not told(lambda tx: tx.delete_inbox([5]))
    assert not told(fail_in_user_code)
    assert not told(lambda tx: tx.add_worker("v", 1), by=store)
    assert other.has_changed()
    with contextlib.suppress(Stop), other.transaction() as tx:
        tx.add_worker("u", 1)
        raise Stop
    assert not store.has_changed()
    # One's own commit between the other's and the look hides nothing.
    with other.transaction() as tx:
        tx.add_worker("u", 1)
    assert told(lambda tx: tx.add_worker("t", 1), by=store)


# --- the user's tables ----------------------------------------------------------------------------


def insert(tx: Transaction, value: int) -> None:
    tx.run_user_code(lambda: tx.db.execute(f"INSERT INTO t VALUES ({value})"), read_only=False)


def add_and_insert(store: MemoryStore) -> None:
    with store.transaction() as tx:
        tx.add_worker("w", 1)
        insert(tx, 1)


def test_user_tables_go_with_the_rows(database: MemoryDatabase) -> None:
    """What user code wrote is committed and rolled back with the engine's rows, of all stores."""
    tables = database.user_tables
    tables.engine_execute("CREATE TABLE t (x INTEGER UNIQUE)")
    store, other = opened(database), opened(database)
    with store.transaction() as tx:
        insert(tx, 1)
        tx.add_worker("w", 1)
    with contextlib.suppress(Stop), other.transaction() as tx:
        insert(tx, 2)
        tx.add_worker("v", 1)
        raise Stop
    with other.transaction() as tx:
        insert(tx, 3)
        with pytest.raises(sqlite3.IntegrityError):
            insert(tx, 1)
    store.has_changed()
    with other.transaction() as tx:
        insert(tx, 4)
    assert store.has_changed(), "the user's rows, too, are rows"
    with other.transaction() as tx:
        tx.run_user_code(lambda: tx.db.execute("SELECT * FROM t").fetchall(), read_only=False)
    assert not store.has_changed()
    assert tables.engine_execute("SELECT x FROM t").fetchall() == [(1,), (3,), (4,)]
    assert database.snapshot().workers.keys() == {"w"}


def test_a_poisoned_commit_leaves_nothing(database: MemoryDatabase) -> None:
    """If the user's rows cannot be committed, the engine's are not either, and the store tells who
    is to blame; the next transaction is free of it."""
    for sql in ("CREATE TABLE p (id INTEGER PRIMARY KEY)", "CREATE TABLE t (p REFERENCES p"):
        tail = " DEFERRABLE INITIALLY DEFERRED)" if sql.endswith("p") else ""
        database.user_tables.engine_execute(sql + tail)
    store = opened(database)
    with pytest.raises(sqlite3.IntegrityError) as caught:
        add_and_insert(store)
    assert store.is_poisoned(caught.value)
    assert store.reader().workers() == []
    with store.transaction() as tx:
        tx.add_worker("w", 1)
        tx.run_user_code(lambda: tx.db.execute("DELETE FROM t"), read_only=False)
    assert len(store.reader().workers()) == 1


def test_user_tables_are_made_when_they_are_needed() -> None:
    """A simulation without tables has no SQLite; with them each begins with what was set up."""
    image = image_of(lambda db: db.executescript("CREATE TABLE t (x); INSERT INTO t VALUES (1)"))
    for _ in range(2):
        database = MemoryDatabase(image)
        store = opened(database)
        fill(store)
        assert database._users._connection is None
        with store.transaction() as tx:
            insert(tx, 2)
        found = database.user_tables.engine_execute("SELECT x FROM t").fetchall()
        assert found == [(1,), (2,)]
        database.close()


def test_an_application_without_tables() -> None:
    """One that makes none begins with none, and power that was lost takes back its first one."""
    assert image_of(lambda db: None) == b""
    with contextlib.closing(MemoryDatabase(image_of(lambda db: db.commit()))) as database:
        database.keep_commits()
        store = opened(database)
        with store.transaction() as tx:
            tx.run_user_code(lambda: tx.db.execute("SELECT 1"), read_only=False)
        with store.transaction() as tx:
            tx.run_user_code(lambda: tx.db.execute("CREATE TABLE t (x)"), read_only=False)
        store.close()
        database.undo_commits(1)
        names = database.user_tables.engine_execute("SELECT name FROM sqlite_schema").fetchall()
        assert names == []

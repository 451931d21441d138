"""The SQLite store in good and in bad times: opening, constraints, and trouble with the file."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from tests.runtime.harness import FakeClock, Rig

import perdure
from perdure import MutationContext, Step
from perdure.core.workflow import WorkflowHeader, WorkflowState
from perdure.definitions import Definer
from perdure.errors import (
    NotOpen,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
)
from perdure.store.base import Store
from perdure.store.sqlite import (
    SqliteStore,
)
from perdure_sim import check_store

SOURCE_ROOT = Path(perdure.__file__).parent.parent


def opened(path: Path | str, **options: float) -> SqliteStore:
    store = SqliteStore(str(path), **options)  # type: ignore[arg-type]
    store.open(max_parallelism=None)
    return store


def workflow(workflow_id: str, arguments: str = "{}") -> WorkflowState:
    header = WorkflowHeader(
        workflow_id=workflow_id, name="w", arguments=arguments, created_at=1, start_at=1
    )
    return WorkflowState(header=header, epoch=1, wake_at=1)


def put(store: SqliteStore, *states: WorkflowState) -> None:
    with store.transaction() as tx:
        tx.insert_workflows(states)


def run_python(code: str, *arguments: str) -> str:
    """What a Python program of its own prints."""
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(SOURCE_ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


# --- the contract ---------------------------------------------------------------------------------


@pytest.mark.parametrize("durability", ["disk", "process"])
def test_the_store_keeps_the_contract(durability: str, tmp_path: Path) -> None:
    """A store in a file does all that the engine relies on."""
    check_store(lambda: SqliteStore(str(tmp_path / "app.db"), durability=durability))


def test_the_store_in_memory_keeps_the_contract() -> None:
    """So does one in memory, but for what needs two stores on one database."""

    def make() -> Store:
        return SqliteStore(":memory:")

    check_store(make)


def test_a_second_opening_finds_the_rows(tmp_path: Path) -> None:
    """What was committed is there for the next process, with the setting of the first."""
    store = SqliteStore(str(tmp_path / "app.db"))
    store.open(max_parallelism=7)
    put(store, workflow("a"))
    store.close()
    store = SqliteStore(str(tmp_path / "app.db"))
    store.open(max_parallelism=9)
    assert [state.workflow_id for state in store.reader().states(["a"])] == ["a"]
    assert store.reader().config().max_parallelism == 7
    store.close()


def test_closing_leaves_one_file(tmp_path: Path) -> None:
    """After the last store is closed all is in the one file, so that a copy of it is a backup."""
    store = opened(tmp_path / "app.db")
    put(store, *(workflow(f"{number}") for number in range(5)))
    assert len(store.reader().states(["0", "1"])) == 2
    store.close()
    assert [each.name for each in tmp_path.iterdir()] == ["app.db"]


def test_the_users_tables_stay(tmp_path: Path) -> None:
    """A file that has the application's tables gets ours beside them."""
    path = tmp_path / "app.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE users (name TEXT)")
        connection.execute("INSERT INTO users VALUES ('ann')")
    connection.close()
    store = opened(path)
    with store.transaction() as tx:
        names = tx.run_user_code(
            lambda: tx.db.execute("SELECT name FROM users").fetchall(), read_only=True
        )
    assert names == [("ann",)]
    store.close()


@pytest.mark.parametrize(("durability", "level"), [("disk", 2), ("process", 1)])
def test_durability_sets_how_much_is_synced(durability: str, level: int, tmp_path: Path) -> None:
    """Commits are synced each (FULL), or when the system likes (NORMAL); both in WAL mode."""
    store = SqliteStore(str(tmp_path / "app.db"), durability=durability)
    store.open(max_parallelism=None)
    run = store._engine_connection().engine_execute
    assert run("PRAGMA synchronous").fetchone() == (level,)
    assert run("PRAGMA journal_mode").fetchone() == ("wal",)
    assert run("PRAGMA foreign_keys").fetchone() == (1,)
    store.close()


def test_an_unknown_durability_is_refused() -> None:
    """The error lists what can be given."""
    with pytest.raises(ValueError, match="durability='memory': give 'disk' or 'process'"):
        SqliteStore("app.db", durability="memory")


def test_a_store_that_is_not_open_says_so(tmp_path: Path) -> None:
    """A transaction on a closed store is a StoreError; a read, which may race with the close, is
    `NotOpen`, also through a reader from before."""
    for path in (":memory:", str(tmp_path / "app.db")):
        store = SqliteStore(path)
        with pytest.raises(StoreError, match="is not open"), store.transaction():
            pass
        with pytest.raises(NotOpen, match="is not open"):
            store.reader()
    store.open(max_parallelism=None)
    reader = store.reader()
    assert reader.states(["a"]) == []
    store.close()
    with pytest.raises(NotOpen, match="closed meanwhile"):
        reader.states(["a"])
    with pytest.raises(NotOpen, match="is not open"):
        store.reader()


def test_two_ways_to_one_file_are_one_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a link, or by a relative path from a folder that is left later: the same locks show who
    lives, and reads find the file."""
    (tmp_path / "link.db").symlink_to("app.db")
    monkeypatch.chdir(tmp_path)
    stores = [opened(path) for path in (tmp_path / "app.db", "link.db", "app.db")]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    put(stores[2], workflow("a"))
    for number, store in enumerate(stores):
        store.hold_worker(f"w{number}")
        assert [state.workflow_id for state in store.reader().states(["a"])] == ["a"]
    everybody = ["w0", "w1", "w2", "gone"]
    assert [store.dead_workers(everybody) for store in stores] == [["gone"]] * 3
    assert str(stores[1].path) == "link.db"
    for store in stores:
        store.close()
    assert list((tmp_path / "elsewhere").iterdir()) == []


# --- constraints ----------------------------------------------------------------------------------

IMPOSSIBLE = {
    "two rows of settings": "INSERT INTO perdure_config VALUES (2, 1, 1, 1, 1)",
    "parallelism below 0": "UPDATE perdure_config SET max_parallelism = -1",
    "parallelism over the limit": "UPDATE perdure_config SET max_parallelism = 100001",
    "an unknown status": "UPDATE perdure_workflows SET status = 'paused'",
    "ended in progress": "UPDATE perdure_workflows SET ended_at = 1",
    "success without a value": "UPDATE perdure_workflows SET status = 'success', ended_at = 1,"
    " wake_at = NULL",
    "failed without an error": "UPDATE perdure_workflows SET status = 'failed', ended_at = 1,"
    " wake_at = NULL",
    "a value in progress": "UPDATE perdure_workflows SET value = '1'",
    "ended and to be woken": "UPDATE perdure_workflows SET status = 'canceled', ended_at = 1",
    "an owner that is no worker": "UPDATE perdure_workflows SET owner = 'nobody'",
    "half a parent": "UPDATE perdure_workflows SET parent_id = 'p'",
    "delivered but not started": "UPDATE perdure_workflows SET position = 0",
    "an epoch of nobody": "UPDATE perdure_workflows SET epoch = 0",
    "the same id twice": "INSERT INTO perdure_workflows (id, name, arguments, rules, created_at,"
    " start_at, status, epoch) VALUES ('a', 'w', '{}', 1, 1, 1, 'in_progress', 1)",
    "text for a number": "UPDATE perdure_workflows SET stamp = 'soon'",
    "an unknown kind of step": "UPDATE perdure_steps SET kind = 'lambda'",
    "an unknown state of a step": "UPDATE perdure_steps SET state = 'lost'",
    "settled without an outcome": "UPDATE perdure_steps SET state = 'settled'",
    "an outcome, not settled": "UPDATE perdure_steps SET outcome = 'canceled'",
    "a successful step without a value": "UPDATE perdure_steps SET state = 'settled',"
    " outcome = 'success'",
    "a failed step without an error": "UPDATE perdure_steps SET state = 'settled',"
    " outcome = 'failed'",
    "started by nobody": "UPDATE perdure_steps SET state = 'started', attempt = 1",
    "started without an attempt": "UPDATE perdure_steps SET state = 'started', runner = 'w'",
    "delivered, not settled": "UPDATE perdure_steps SET delivered_position = 5",
    "delivered before it was asked": "UPDATE perdure_steps SET state = 'settled',"
    " outcome = 'canceled', delivered_position = 0",
    "canceled by the handler, not canceled": "UPDATE perdure_steps SET state = 'settled',"
    " outcome = 'success', value = '1', canceled_position = 5",
    "a step of no workflow": "UPDATE perdure_steps SET workflow_id = 'b'",
    "a tick at the start": "INSERT INTO perdure_ticks VALUES ('a', 0, 1)",
    "two ticks at one position": "INSERT INTO perdure_ticks VALUES ('a', 1, 2), ('a', 1, 3)",
    "sent without a payload": "UPDATE perdure_events SET sequence = 1, sent_at = 1",
    "sent at no time": "UPDATE perdure_events SET sequence = 1, value = '1'",
    "consumed before it was sent": "UPDATE perdure_events SET consumed_by = 0",
    "one event of two workflows": "INSERT INTO perdure_events (workflow_id, id, name, created_at)"
    " VALUES ('c', 'e', 'e', 1)",
    "an unknown kind of mail": "INSERT INTO perdure_inbox (workflow_id, kind, body, accepted_at)"
    " VALUES ('a', 'spam', '1', 1)",
    "permits below 0": "INSERT INTO perdure_workers (id, started_at, permits) VALUES ('w', 1, -1)",
}


@pytest.mark.parametrize("sql", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_the_schema_refuses_what_must_not_exist(sql: str, tmp_path: Path) -> None:
    """Whatever goes wrong in Python, an impossible row is not stored."""
    store = opened(tmp_path / "app.db")
    put(store, workflow("a"), workflow("c"))
    connection = store._engine_connection()
    connection.begin()
    connection.engine_execute(
        "INSERT INTO perdure_steps (workflow_id, number, kind, name, asked_position, asked_at,"
        " asked_epoch, state) VALUES ('a', 0, 'sleep', 's', 0, 1, 1, 'asked')"
    )
    connection.engine_execute(
        "INSERT INTO perdure_events (workflow_id, id, name, created_at) VALUES ('a', 'e', 'e', 1)"
    )
    connection.commit()
    connection.begin()
    with pytest.raises(sqlite3.IntegrityError):
        connection.engine_execute(sql)
    connection.rollback()
    store.close()


def test_a_corrupt_file_is_named(tmp_path: Path) -> None:
    """Damage in the middle of the file is found by reads and by writes, and is no sqlite3 error."""
    path = tmp_path / "app.db"
    opened(path).close()
    empty = path.stat().st_size  # so far, the schema and the first page of each table
    store = opened(path)
    put(store, *(workflow(f"{number:04}", '"' + "x" * 200 + '"') for number in range(400)))
    store.close()
    data = bytearray(path.read_bytes())
    data[empty:] = b"\xff" * (len(data) - empty)
    path.write_bytes(data)
    store = opened(path)
    ids = [f"{number:04}" for number in range(400)]
    with pytest.raises(StoreCorrupt, match=r"app\.db: .*restore the file from a backup"):
        store.reader().load(ids)
    with (
        pytest.raises(StoreCorrupt, match=r"app\.db: .*restore the file"),
        store.transaction() as tx,
    ):
        tx.load(ids)
    store.close()


# --- trouble while it works -----------------------------------------------------------------------


app = Definer()


@app.mutation
def note(ctx: MutationContext, text: str) -> int:
    return len(text)


@app.workflow
async def waiting(step: Step, text: str = "") -> int:
    await step.await_event("go")
    return await step.run_mutation(note(text))


def make_rig(tmp_path: Path) -> Rig:
    rig = Rig(app, tmp_path / "app.db", clock=FakeClock())
    rig.store._engine_connection().engine_execute("PRAGMA busy_timeout = 0")
    return rig


def test_a_full_disk_is_told_and_survived(tmp_path: Path) -> None:
    """A start finds the disk full: nothing is written; once there is space, all goes on."""
    rig = make_rig(tmp_path)
    running = rig.start(waiting(), id="running")
    rig.settle()
    pages = rig.store._engine_connection().engine_execute
    (count,) = pages("PRAGMA page_count").fetchone()
    pages(f"PRAGMA max_page_count = {count}")
    answer = rig.ask_start(waiting("x" * 500_000), id="large")
    rig.turn()
    assert isinstance(answer.error, StoreFull)
    assert str(answer.error).startswith(f"{tmp_path / 'app.db'}: ")
    assert "free some space" in str(answer.error)
    pages("PRAGMA max_page_count = 1000000")
    rig.pass_time(2_000)
    assert rig.store.reader().states(["large"]) == []
    rig.done(rig.ask_event("go", running))
    assert rig.outcome(running) == 0
    rig.close()


def test_a_busy_store_fails_no_workflow(tmp_path: Path) -> None:
    """While somebody holds the write lock callers wait, then give up; workflows go on after it."""
    rig = make_rig(tmp_path)
    running = rig.start(waiting(), id="running")
    rig.settle()
    other = sqlite3.connect(tmp_path / "app.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    answer = rig.ask_start(waiting(), id="late")
    rig.turn()
    assert answer.is_open
    rig.clock.advance(31_000)
    rig.turn()
    assert isinstance(answer.error, StoreBusy)
    assert "app.db" in str(answer.error)
    assert "end the other's transaction" in str(answer.error)
    assert rig.state(running).status == "in_progress"
    other.execute("ROLLBACK")
    other.close()
    rig.pass_time(2_000)
    assert rig.store.reader().states(["late"]) == []
    rig.done(rig.ask_event("go", running))
    assert rig.outcome(running) == 0
    rig.close()


def test_a_lock_that_is_held_too_long_is_busy(tmp_path: Path) -> None:
    """A transaction that cannot begin within `busy_timeout` raises StoreBusy; reads go on."""
    store = opened(tmp_path / "app.db", busy_timeout=0)
    other = opened(tmp_path / "app.db", busy_timeout=0)
    with other.transaction() as tx:
        tx.insert_workflows([workflow("a")])
        with pytest.raises(StoreBusy, match=r"app\.db: .*raise busy_timeout"):
            put(store, workflow("b"))
        assert store.reader().states(["a", "b"]) == []
    put(store, workflow("b"))
    assert len(store.reader().states(["a", "b"])) == 2
    store.close()
    other.close()


OVER_THE_QUOTA = """
import resource, sys
from perdure.core.workflow import WorkflowHeader, WorkflowState
from perdure.errors import StoreError
from perdure.store.sqlite import SqliteStore

def put(name, size):
    header = WorkflowHeader(
        workflow_id=name, name="w", arguments="x" * size, created_at=1, start_at=1
    )
    with store.transaction() as tx:
        tx.insert_workflows([WorkflowState(header=header, epoch=1)])

store = SqliteStore(sys.argv[1])
store.open(max_parallelism=None)
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, most))
try:
    put("large", 1_000_000)
except StoreError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
put("after", 1_000_000)
print([state.workflow_id for state in store.reader().states(["large", "after"])])
store.close()
"""


def test_a_write_that_the_system_refuses_is_trouble(tmp_path: Path) -> None:
    """A file that may not grow is a StoreError that names it; nothing of the commit is stored."""
    first, last = run_python(OVER_THE_QUOTA, str(tmp_path / "app.db")).splitlines()
    assert first.startswith(f"{tmp_path / 'app.db'}: disk I/O error")
    assert "look after the disk" in first
    assert last == "['after']"

"""The SQL of the SQLite store: what its statements read, and that what is asked often is indexed.

What each method promises is checked by `perdure_sim.check_store`; see test_sqlite.py.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.core.commands import RunStep, Sleep
from perdure.core.ids import WorkflowId
from perdure.core.journal import StepRecord
from perdure.core.messages import SentEvent
from perdure.core.outcomes import Succeeded
from perdure.core.workflow import WorkflowHeader, WorkflowState
from perdure.errors import StoreCorrupt, StoreVersionError
from perdure.store.base import InboxRow, StateWrite, StepWrite, WorkflowFilter
from perdure.store.sqlite import SqliteStore
from perdure.store.sqlite_sql import READY_LOOK, SqliteReader


def asleep(number: int) -> StepRecord:
    """A step that sleeps."""
    command = Sleep(name="sleep", due_at=9)
    return StepRecord(
        number=number, command=command, asked_position=0, asked_at=1, asked_epoch=1, state="asked"
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(str(tmp_path / "app.db"))
    store.open(max_parallelism=None)
    yield store
    store.close()


def plans_of(store: SqliteStore, ask: Callable[[SqliteReader], Any]) -> list[str]:
    """How SQLite carries out the statements of a read: a line for each table."""
    connection = store._engine_connection()
    lines: list[str] = []

    def execute(sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        plan = connection.engine_execute(f"EXPLAIN QUERY PLAN {sql}", parameters)
        lines.extend(row[3] for row in plan)
        return connection.engine_execute(sql, parameters)

    ask(SqliteReader(execute))
    return lines


READS: dict[str, Callable[[SqliteReader], Any]] = {
    "load": lambda reader: reader.load(["a"]),
    "states": lambda reader: reader.states(["a"]),
    "listing": lambda reader: reader.list_workflows(WorkflowFilter(after=5)),
    "listing by name": lambda reader: reader.list_workflows(WorkflowFilter(name="w", after=5)),
    "listing by status": lambda reader: reader.list_workflows(WorkflowFilter(status="failed")),
    "listing of the blocked": lambda reader: reader.list_workflows(WorkflowFilter(is_blocked=True)),
    "steps": lambda reader: reader.list_steps("a", is_ascending=False, limit=9, after=5),
    "open steps": lambda reader: reader.open_steps("a"),
    "listing by both": lambda reader: reader.list_workflows(WorkflowFilter(name="w", status="x")),
    "active": lambda reader: reader.count_active(["w"], 5),
    "claimable": lambda reader: reader.claimable(["w"], 5, 10),
    "next wake": lambda reader: reader.next_wake(["w"]),
}


@pytest.mark.parametrize("name", READS)
def test_reads_use_an_index(name: str, store: SqliteStore) -> None:
    """No read goes over a whole table of workflows, steps or events, nor sorts what it found."""
    lines = plans_of(store, READS[name])
    assert lines != []
    scans = [line for line in lines if line.startswith("SCAN perdure_") and "INDEX" not in line]
    assert scans == []
    # Sorted are the few events of the workflows asked for, and what comes of each name or status.
    if name not in ("load", "claimable", "listing by name"):
        assert [line for line in lines if "TEMP B-TREE FOR ORDER" in line] == []


def steps_of(path: Path, ask: Callable[[SqliteReader], Any]) -> int:
    """How many steps of SQLite's own machine a read takes."""
    count = 0

    def one() -> None:
        nonlocal count
        count += 1

    with closing(sqlite3.connect(path)) as connection:
        connection.set_progress_handler(one, 1)
        ask(SqliteReader(connection.execute))
    return count


#: What is stored: a name, and what its workflows have.
STORED = (
    ("ended", "status, value, ended_at", "'success', '1', 1"),
    ("strange", "status, wake_at", "'in_progress', 40"),
    ("due", "status, wake_at", "'in_progress', 40"),
    ("known", "status, value, ended_at", "'success', '1', 1"),
)
BOTH = WorkflowFilter(name="known", status="in_progress")

#: What is asked while many are stored of which it is none: by a name, by a status.
LOOKS: dict[str, Callable[[SqliteReader], Any]] = {
    "listing": lambda reader: reader.list_workflows(WorkflowFilter(limit=9)),
    "listing by name": lambda reader: reader.list_workflows(WorkflowFilter(name="known")),
    "listing by status": lambda reader: reader.list_workflows(WorkflowFilter(status="failed")),
    "listing by both": lambda reader: reader.list_workflows(BOTH),
    "listing of the blocked": lambda reader: reader.list_workflows(WorkflowFilter(is_blocked=True)),
    "active": lambda reader: reader.count_active(["known", "strange"], 5),
    "claimable": lambda reader: reader.claimable(["known", "due"], 50, 5),
    "next wake": lambda reader: reader.next_wake(["known", "due"]),
}


def test_looks_cost_the_same_however_many_are_stored(tmp_path: Path) -> None:
    """Also where a user's ANALYZE has told SQLite how many those are of each kind."""
    path = tmp_path / "app.db"
    store = SqliteStore(str(path))
    store.open(max_parallelism=None)
    store.close()
    counts = []
    for first, last in ((1, 1_000), (1_001, 10_000)):
        with closing(sqlite3.connect(path)) as connection, connection:
            for kind, columns, values in STORED:
                connection.execute(
                    f"WITH RECURSIVE s (n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM s"
                    f" WHERE n < {last}) INSERT INTO perdure_workflows (id, name, arguments, rules,"
                    f" created_at, start_at, epoch, {columns}) SELECT '{kind}' || n, '{kind}',"
                    f" '{{}}', 1, 1, 1, 1, {values} FROM s"
                )
            connection.execute("ANALYZE")
        counts.append({name: steps_of(path, look) for name, look in LOOKS.items()})
    few, many = counts
    assert [name for name in LOOKS if many[name] > few[name] * 1.1] == []


def state(workflow_id: WorkflowId, epoch: int = 1) -> WorkflowState:
    header = WorkflowHeader(
        workflow_id=workflow_id, name="w", arguments="{}", created_at=1, start_at=1
    )
    return WorkflowState(header=header, epoch=epoch)


@pytest.mark.parametrize("workflow_id", ['"', "'", "a,b", "[]", "\\", "%", "é🧪", "a\nb", "null"])
def test_ids_are_data(workflow_id: str, store: SqliteStore) -> None:
    """No character of an id is taken for SQL or JSON, or finds another workflow."""
    with store.transaction() as tx:
        tx.insert_workflows([state(workflow_id), state("other")])
    assert store.reader().states([workflow_id]) == [state(workflow_id)]
    assert [loaded.state for loaded in store.reader().load([workflow_id])] == [state(workflow_id)]


def test_a_thousand_ids_are_one_statement(store: SqliteStore) -> None:
    """A list of ids is one parameter: no limit on their number is met."""
    ids = [f"w{number}" for number in range(40_000)]
    with store.transaction() as tx:
        tx.insert_workflows([state("w0"), state("w39999")])
    assert len(store.reader().states(ids)) == 2


def test_a_fresh_epoch_is_not_taken_for_a_stale_one(store: SqliteStore) -> None:
    """Of a batch with one stale write just that one is named, though the others are written."""
    with store.transaction() as tx:
        tx.insert_workflows([state("a"), state("b"), state("c")])
        writes = [
            StateWrite(state=state(name, epoch), expected_epoch=expected)
            for name, epoch, expected in (("a", 1, 1), ("b", 10, 9), ("c", 11, 1))
        ]
        assert tx.update_workflows(writes) == {"b"}


def test_a_changed_schema_is_seen_in_a_transaction(store: SqliteStore) -> None:
    """A store that somebody has upgraded meanwhile is not written to by old code."""
    connection = store._engine_connection()
    connection.begin()
    connection.engine_execute("UPDATE perdure_config SET schema_version = 99")
    connection.commit()
    with store.transaction() as tx, pytest.raises(StoreVersionError, match="version 99"):
        tx.check_schema()


def test_ids_of_mail_are_not_given_again(store: SqliteStore) -> None:
    """Also after all of it was deleted: who is late must not take new mail for what it knew."""
    mail = InboxRow(workflow_id="a", kind="event", body="1", accepted_at=1, worker="w")
    seen: list[int] = []
    for _ in range(3):
        with store.transaction() as tx:
            tx.put_inbox([mail])
            (row,) = tx.inbox_of("w")
            tx.delete_inbox([row.row_id])
        seen.append(row.row_id)
    assert seen == [1, 2, 3]


def test_an_event_is_consumed_once(store: SqliteStore) -> None:
    """A second await, or an event that nobody knows, is a fault that ends the transaction."""
    event = SentEvent(event_id="e", name="n", sequence=1, sent_at=1, outcome=Succeeded("1"))
    with store.transaction() as tx:
        tx.insert_workflows([state("a")])
        tx.put_event("a", event, 1)
        tx.consume_event("a", "e", 4)
    for event_id in ("e", "unknown"):
        with (
            pytest.raises(RuntimeError, match=f"event '{event_id}' of workflow 'a'.*step 5"),
            store.transaction() as tx,
        ):
            tx.consume_event("a", event_id, 5)
    rows = store._engine_connection().engine_execute("SELECT consumed_by FROM perdure_events")
    assert rows.fetchall() == [(4,)]


def test_a_row_that_cannot_be_read_is_the_damage_of_its_workflow(store: SqliteStore) -> None:
    """Others that are loaded with it are whole."""
    with store.transaction() as tx:
        tx.insert_workflows([state("a"), state("b")])
        tx.put_steps(
            StepWrite(workflow_id=name, record=asleep(number), is_new=True)
            for name in ("a", "b")
            for number in (0, 1)
        )
    connection = store._engine_connection()
    connection.begin()
    connection.engine_execute("UPDATE perdure_steps SET options = '{' WHERE workflow_id = 'a'")
    connection.commit()
    bad, good = sorted(store.reader().load(["a", "b"]), key=lambda each: each.state.workflow_id)
    assert bad.damage is not None
    assert "step 0 of workflow 'a'" in bad.damage.message
    assert bad.steps == ()
    assert good.damage is None
    assert good.steps == (asleep(0), asleep(1))
    with pytest.raises(StoreCorrupt, match="step 0 of workflow 'a' cannot be read"):
        store.reader().list_steps("a", is_ascending=True, limit=10, after=None)


@pytest.mark.parametrize("column", ["blocked", "on_complete_error"])
def test_an_error_that_cannot_be_read_says_so(store: SqliteStore, column: str) -> None:
    """Nothing depends on what an error says: it is shown, and the workflow is as it was."""
    with store.transaction() as tx:
        tx.insert_workflows([state("a")])
    connection = store._engine_connection()
    connection.begin()
    connection.engine_execute(f"UPDATE perdure_workflows SET {column} = '{{'")
    connection.commit()
    (found,) = store.reader().states(["a"])
    error = found.on_complete_error if found.blocked is None else found.blocked.error
    assert error is not None
    assert error.type == "StoreCorrupt"


def ready(number: int, function: str) -> StepRecord:
    """An action that waits for a permit."""
    command = RunStep(kind="action", name="f", function=function, arguments="{}")
    return StepRecord(
        number=number,
        command=command,
        asked_position=0,
        asked_at=1,
        asked_epoch=1,
        state="ready",
        due_at=5,
    )


def test_only_the_head_of_a_long_queue_is_looked_at(store: SqliteStore) -> None:
    """Who wants to help looks often: a queue of any length must not make that dear."""
    with store.transaction() as tx:
        tx.add_worker("u", 1)
        tx.insert_workflows([replace(state("a"), owner="u"), replace(state("b"), owner="u")])
        for workflow_id, function in (("a", "f"), ("b", "g")):
            tx.put_steps(
                StepWrite(workflow_id=workflow_id, record=ready(number, function), is_new=True)
                for number in range(READY_LOOK)
            )
    found = store.reader().ready_steps("v", ("f", "g"), 2)
    assert [step.record.number for step in found] == [READY_LOOK - 1, READY_LOOK - 2]
    assert store.reader().ready_steps("v", ("g",), 2) == []


def test_a_step_that_cannot_be_read_is_not_offered(store: SqliteStore) -> None:
    """Nobody but its owner can tell what is wrong with it; the others are there."""
    with store.transaction() as tx:
        tx.add_worker("u", 1)
        tx.insert_workflows([replace(state("a"), owner="u")])
        tx.put_steps(
            StepWrite(workflow_id="a", record=ready(number, "f"), is_new=True)
            for number in range(3)
        )
    connection = store._engine_connection()
    connection.begin()
    connection.engine_execute("UPDATE perdure_steps SET options = '{' WHERE number = 1")
    connection.commit()
    found = store.reader().ready_steps("v", ("f",), 9)
    assert [step.record.number for step in found] == [2, 0]

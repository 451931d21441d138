"""Rows for the tests of the store in memory."""

from __future__ import annotations

from typing import Any

from perdure.core.messages import SentEvent
from perdure.core.outcomes import Canceled, Succeeded
from perdure.core.workflow import WorkflowHeader, WorkflowState
from perdure.store.base import InboxRow, Reader, StateWrite, StepWrite, Store
from perdure_sim.conformance.bench import run_step
from perdure_sim.stores.memory import MemoryDatabase, MemoryStore


def opened(database: MemoryDatabase) -> MemoryStore:
    store = MemoryStore(database)
    store.open(max_parallelism=7)
    return store


def workflow(workflow_id: str, **fields: Any) -> WorkflowState:
    known = {name: fields.pop(name) for name in ("parent_id", "parent_number") if name in fields}
    header = WorkflowHeader(
        workflow_id=workflow_id, name="w", arguments="{}", created_at=1, start_at=1, **known
    )
    return WorkflowState(header=header, **{"epoch": 1} | fields)


def new(record: Any, workflow_id: str = "a") -> StepWrite:
    return StepWrite(workflow_id=workflow_id, record=record, is_new=True)


def update(state: WorkflowState) -> StateWrite:
    return StateWrite(state=state, expected_epoch=1)


def letter(workflow_id: str = "a", worker: str | None = None) -> InboxRow:
    return InboxRow(workflow_id=workflow_id, kind="event", body="1", accepted_at=1, worker=worker)


STARTED = {"state": "started", "attempt": 1, "runner": "w"}


def fill(store: Store) -> None:
    """Some rows in each table: of `a`, which worker w owns, of `b`, which waits, of `c`, ended."""
    sent = SentEvent(event_id="e", name="e", sequence=1, sent_at=1, outcome=Succeeded("1"))
    with store.transaction() as tx:
        tx.add_worker("w", 1)
        ended = workflow("c", status="canceled", outcome=Canceled(), ended_at=1)
        tx.insert_workflows([workflow("a", owner="w"), workflow("b", wake_at=5), ended])
        tx.put_steps([new(run_step(0)), new(run_step(1, **STARTED))])
        tx.put_ticks([("a", 1, 5)])
        tx.put_event("a", sent, 1)
        tx.put_event("a", SentEvent(event_id="created", name="e"), 1)
        tx.put_inbox([letter(), letter(worker="w"), letter("b")])


def look(reader: Reader) -> list[Any]:
    """What depends on the indexes, beside the rows themselves."""
    ids, names = ["a", "b", "c", "d"], ["w"]
    return [
        reader.load(ids),
        reader.workers(),
        reader.inbox_of("w"),
        reader.claimable(names, 99, 99),
        reader.next_wake(names),
        reader.count_active(names, 99),
        reader.find_event("e"),
        reader.find_event("f"),
        reader.config(),
    ]

"""The rows of the store in memory: what may not stand in them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace
from tests.sim.samples import fill, letter, look, new, opened, update, workflow

from perdure.core.messages import SentEvent
from perdure.core.outcomes import Canceled, Failed, Succeeded
from perdure.core.workflow import Blocked
from perdure.errors import ErrorInfo
from perdure.store.base import StateWrite, StepWrite, Store, Transaction
from perdure.store.sqlite import SqliteStore
from perdure_sim.conformance.bench import run_step
from perdure_sim.stores.memory import MemoryDatabase, MemoryStore

ERROR = ErrorInfo("ValueError", "boom")


def steps(*records: Any, is_new: bool = True) -> Callable[[Transaction], object]:
    writes = [StepWrite(workflow_id="a", record=record, is_new=is_new) for record in records]
    return lambda tx: tx.put_steps(writes)


def change(**fields: Any) -> Callable[[Transaction], object]:
    state = workflow("a", **fields)
    return lambda tx: tx.update_workflows([update(state)])


def goes_on(**fields: Any) -> Callable[[Transaction], object]:
    """An update that says that little has changed."""
    before = workflow("a", owner="w")
    write = StateWrite(state=replace(before, **fields), expected_epoch=1, before=before)
    return lambda tx: tx.update_workflows([write])


def insertion(**fields: Any) -> Callable[[Transaction], object]:
    return lambda tx: tx.insert_workflows([workflow("new", **fields)])


def event(workflow_id: str = "b", **fields: Any) -> Callable[[Transaction], object]:
    sent: dict[str, Any] = {
        "event_id": "g",
        "name": "e",
        "sequence": 2,
        "sent_at": 2,
        "outcome": Succeeded("1"),
    }
    return lambda tx: tx.put_event(workflow_id, SentEvent(**sent | fields), 1)


def wake_an_ended_one(tx: Transaction) -> None:
    blocked = Blocked(error=ERROR, count=1, retry_at=1)
    ended = workflow("a", status="canceled", outcome=Canceled(), ended_at=1, blocked=blocked)
    assert tx.update_workflows([update(ended)]) == set()
    tx.wake_blocked(["w"], 1, 1)


def take_back_a_consumed_event(tx: Transaction) -> None:
    tx.consume_event("a", "e", 4)
    tx.put_event("a", SentEvent(event_id="e", name="e"), 1)


DONE: dict[str, Any] = {"state": "settled", "outcome": Succeeded("1"), "settled_at": 2}

#: A write that the schema refuses → what the assertion says.
REFUSED: dict[str, tuple[Callable[[Transaction], object], str]] = {
    "max_parallelism": (lambda tx: tx.set_max_parallelism(100_001), "max_parallelism 100001"),
    "next_epoch": (lambda tx: tx.take_epochs(-9), r"next_epoch 1 \+ -9"),
    "worker twice": (lambda tx: tx.add_worker("w", 1), "worker 'w'"),
    "permits": (lambda tx: tx.set_permits("w", -1, 0), "'w': -1, 0"),
    "wanting": (lambda tx: tx.set_permits("w", 0, -1), "'w': 0, -1"),
    "worker that owns": (lambda tx: tx.remove_worker("w"), r"'w' still owns \['a'\]"),
    "workflow twice": (lambda tx: tx.insert_workflows([workflow("b")]), "'b' exists"),
    "parent without step": (insertion(parent_id="p"), "parent 'p' with step None"),
    "step without parent": (insertion(parent_number=1), "parent None with step 1"),
    "owner of a new one": (insertion(owner="x"), "unknown owner 'x'"),
    "owner": (change(owner="x"), "unknown owner 'x'"),
    "epoch": (change(epoch=0), "epoch 0"),
    "status": (change(status="asleep"), "unknown status 'asleep'"),
    "ended in progress": (change(ended_at=3), "in progress, ended at 3"),
    "not ended": (change(status="canceled", outcome=Canceled()), "ended at no time"),
    "success without outcome": (change(status="success", ended_at=3), "outcome None"),
    "failed without outcome": (change(status="failed", ended_at=3), "outcome None"),
    "outcome of another status": (
        change(status="failed", outcome=Succeeded("1"), ended_at=3),
        "'failed' with outcome Succeeded",
    ),
    "value without success": (change(outcome=Succeeded("1")), "'in_progress' with outcome"),
    "success without value": (
        change(status="success", outcome=Succeeded(None), ended_at=3),
        "success without a value",
    ),
    "ended with owner": (
        change(status="canceled", outcome=Canceled(), ended_at=3, owner="w"),
        r"\('w', None\)",
    ),
    "ended and waked": (
        change(status="canceled", outcome=Canceled(), ended_at=3, wake_at=4),
        r"\(None, 4\)",
    ),
    "position without start": (change(position=0), "position 0, started at None"),
    "start without position": (goes_on(started_at=3), "position -1, started at 3"),
    "no stamp": (goes_on(stamp=None), r"no \(None, 0, 0, 0\)"),
    "wake of an ended one": (wake_an_ended_one, r"\(None, 1\)"),
    "step twice": (steps(run_step(0)), "'a' has StepRecord"),
    "step of nobody": (lambda tx: tx.put_steps([new(run_step(0), "x")]), "unknown workflow 'x'"),
    "number": (steps(run_step(-1)), "step -1 of 'a'"),
    "asked position": (steps(run_step(5, asked_position=-1)), "asked at no position"),
    "asked at": (steps(run_step(5, asked_at=None)), r"no \('pay', None, 1\)"),
    "attempt": (steps(run_step(5, attempt=-1)), "attempt -1"),
    "state": (steps(run_step(5, state="asleep")), "'asleep' without outcome"),
    "settled without outcome": (steps(run_step(0, state="settled"), is_new=False), "'settled' wi"),
    "outcome of an open one": (
        steps(run_step(0, state="ready", outcome=Failed(ERROR)), is_new=False),
        "'ready' with an outcome",
    ),
    "success of an open step": (
        steps(run_step(0, state="ready", outcome=Succeeded("1")), is_new=False),
        "'ready' with an outcome",
    ),
    "step without value": (steps(run_step(5, **DONE | {"outcome": Succeeded(None)})), "without va"),
    "started by nobody": (steps(run_step(5, state="started", attempt=1)), "without runner"),
    "started never": (steps(run_step(5, state="started", runner="w")), "without runner or attempt"),
    "delivery of an open step": (
        steps(run_step(0, delivered_position=3), is_new=False),
        "something of an end",
    ),
    "delivered too early": (
        steps(run_step(5, **DONE, asked_position=3, delivered_position=3)),
        "delivered at 3, before it was asked",
    ),
    "cancelled with value": (steps(run_step(5, **DONE, canceled_position=3)), "cancelled at 3"),
    "tick twice": (lambda tx: tx.put_ticks([("a", 1, 9)]), "'a' has one"),
    "tick at the start": (lambda tx: tx.put_ticks([("a", 0, 9)]), "position=0"),
    "tick of nobody": (lambda tx: tx.put_ticks([("x", 1, 9)]), "unknown workflow 'x'"),
    "event of nobody": (event("x"), "unknown workflow 'x'"),
    "event of another": (event(event_id="e"), "event of 'b' is one of 'a'"),
    "sent at no time": (event(sent_at=None), "sent at no time"),
    "sent without value": (event(outcome=None), "sent without value"),
    "sent as canceled": (event(outcome=Canceled()), "sent without value"),
    "sent with no value": (event(outcome=Succeeded(None)), "sent without value"),
    "not sent, with a time": (event(sequence=None, outcome=None), r"\(2, None\)"),
    "not sent, with a value": (event(sequence=None, sent_at=None), r"\(None, Succeeded"),
    "consumed before it was sent": (
        lambda tx: tx.consume_event("a", "created", 4),
        "consumed by 4",
    ),
    "consumed and taken back": (take_back_a_consumed_event, "consumed by 4"),
    "kind of a letter": (
        lambda tx: tx.put_inbox([replace(letter(), kind="letter")]),
        "unknown kind 'letter'",
    ),
    "letter without body": (lambda tx: tx.put_inbox([replace(letter(), body=None)]), "not whole"),
}


@pytest.mark.parametrize(("write", "says"), REFUSED.values(), ids=REFUSED)
def test_what_the_schema_refuses_is_refused(
    write: Callable[[Transaction], object], says: str, database: MemoryDatabase
) -> None:
    """A write that breaks a constraint of schema/sqlite.sql is an error in both stores; here it
    shows the values, and after it all is as before."""
    store, sqlite = opened(database), SqliteStore(":memory:")
    sqlite.open(max_parallelism=None)
    fill(store)
    fill(sqlite)
    with pytest.raises(sqlite3.IntegrityError), sqlite.transaction() as tx:
        write(tx)
    sqlite.close()
    before, seen = database.snapshot(), look(store.reader())
    with pytest.raises(AssertionError, match=says), store.transaction() as tx:
        write(tx)
    assert database.snapshot() == before
    assert look(store.reader()) == seen


#: A write that SQLite would take, and store something else → what the assertion says.
ALTERED: dict[str, tuple[Callable[[Transaction], object], str]] = {
    "canceled without outcome": (change(status="canceled", ended_at=3), "'canceled' with outcome"),
    "in progress but canceled": (change(outcome=Canceled()), "'in_progress' with outcome"),
    "end of an open step": (steps(run_step(5, settled_at=3)), "something of an end"),
    "outcome of an event not sent": (
        event(sequence=None, sent_at=None, outcome=Canceled()),
        r"\(None, Canceled\(\)\)",
    ),
}


@pytest.mark.parametrize(("write", "says"), ALTERED.values(), ids=ALTERED)
def test_what_sqlite_would_alter_is_refused(
    write: Callable[[Transaction], object], says: str, database: MemoryDatabase
) -> None:
    """Where SQLite drops what does not fit, the engine would hold another state than is stored:
    that is its bug, and is shown."""
    store, sqlite = opened(database), SqliteStore(":memory:")
    sqlite.open(max_parallelism=None)
    fill(store)
    fill(sqlite)
    with sqlite.transaction() as tx:
        write(tx)
    sqlite.close()
    with pytest.raises(AssertionError, match=says), store.transaction() as tx:
        write(tx)


def test_a_setting_out_of_range_is_refused_when_opening(database: MemoryDatabase) -> None:
    """So is the first limit."""
    with pytest.raises(AssertionError, match="max_parallelism -1"):
        MemoryStore(database).open(max_parallelism=-1)


def consume_two(store: Store, event_id: str, workflow_id: str) -> None:
    with store.transaction() as tx:
        tx.consume_event("a", "e", 1)
        tx.consume_event(workflow_id, event_id, 2)


def test_an_event_is_consumed_once(database: MemoryDatabase) -> None:
    """A second step that takes an event, or one that takes an unknown one, is told as SQLite
    tells it."""
    store = opened(database)
    fill(store)
    for event_id, workflow_id in (("e", "a"), ("x", "a"), ("e", "b"), ("e", "x")):
        text = f"event '{event_id}' of workflow '{workflow_id}' is consumed already"
        with pytest.raises(RuntimeError, match=text):
            consume_two(store, event_id, workflow_id)

"""Reads of events, and of the steps that await them: what they go through, and what damage does.

What each promises is checked by `perdure_sim.check_store`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.store.places import Place
from tests.store.test_sqlite_sql import plans_of, state, steps_of

from perdure.core.commands import AwaitEvent
from perdure.core.journal import StepRecord
from perdure.core.messages import SentEvent
from perdure.store.base import StepWrite, Transaction
from perdure.store.sqlite import SqliteStore
from perdure.store.sqlite_events import EventReads

READS: dict[str, Callable[[EventReads], Any]] = {
    "event": lambda reader: reader.find_event("e"),
    "send": lambda reader: reader.find_send("e"),
    "created": lambda reader: reader.created_event("a", "e"),
    "awaited": lambda reader: reader.awaited_event("a", "e"),
    "waits": lambda reader: reader.count_waits("a", "e", below=None),
    "queued": lambda reader: reader.count_queued("a", "e"),
}


@pytest.mark.parametrize("name", READS)
def test_reads_use_an_index(name: str, tmp_path: Path) -> None:
    """None goes over all events or steps of the store, and none sorts."""
    store = SqliteStore(str(tmp_path / "app.db"))
    store.open(max_parallelism=None)
    lines = plans_of(store, READS[name])
    store.close()
    assert lines != []
    assert [line for line in lines if line.startswith("SCAN") or "TEMP B-TREE" in line] == []


def put_waits(tx: Transaction, numbers: range) -> None:
    """Workflow "a" with created events "e0", "e1" …, each awaited by the step of that number."""
    for number in numbers:
        tx.put_event("a", SentEvent(event_id=f"e{number}", name="e", made=number), 1)
    records = (
        StepRecord(
            number=number,
            command=AwaitEvent(name="e", event_id=f"e{number}"),
            asked_position=0,
            asked_at=1,
            asked_epoch=1,
            state="asked",
        )
        for number in numbers
    )
    tx.put_steps([StepWrite(workflow_id="a", record=record, is_new=True) for record in records])


def test_later_steps_are_not_looked_at(tmp_path: Path) -> None:
    """Whoever waits longest is found at once, however many wait after that."""
    path = tmp_path / "app.db"
    store = SqliteStore(str(path))
    store.open(max_parallelism=None)
    counts: list[list[int]] = []
    for numbers in (range(10), range(10, 1_000)):
        with store.transaction() as tx:
            if not counts:
                tx.insert_workflows([state("a")])
            put_waits(tx, numbers)
        counts.append(
            [
                steps_of(path, READS["awaited"]),
                steps_of(path, lambda reader: reader.count_waits("a", "e", below=0)),
            ]
        )
    store.close()
    assert counts[0] == counts[1]


def test_options_that_are_damaged_say_nothing(place: Place) -> None:
    """They are no trouble of the store's: the others are found."""
    store = place.store()
    store.open(max_parallelism=None)
    with store.transaction() as tx:
        tx.insert_workflows([state("a")])
        put_waits(tx, range(4))
    for number, options in enumerate(("x", '{"event_id":"e1', '{"event_name":1}')):
        place.execute(f"UPDATE perdure_steps SET options = '{options}' WHERE number = {number}")
    found = store.reader().awaited_event("a", "e")
    assert found is not None and (found[0], found[1].event_id) == (3, "e3")
    assert store.reader().count_waits("a", "e", below=None) == 0
    assert store.reader().count_queued("a", "e") == 0
    store.close()

"""Reads of the PostgreSQL store: none looks at more rows than it needs.

What they give is checked by `perdure_sim.check_store`.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from tests.store.postgres.databases import STILL, execute

from perdure.store.base import WorkflowFilter
from perdure.store.postgres.reads import PostgresReader
from perdure.store.postgres.store import PostgresStore
from perdure.store.postgres.writes import PostgresTransaction

READS: dict[str, Callable[[PostgresTransaction], Any]] = {
    "load": lambda reader: reader.load(["a"]),
    "states": lambda reader: reader.states(["a"]),
    "list": lambda reader: reader.list_workflows(WorkflowFilter(after=5)),
    "list by name": lambda reader: reader.list_workflows(WorkflowFilter(name="known")),
    "list blocked": lambda reader: reader.list_workflows(WorkflowFilter(is_blocked=True)),
    "steps": lambda reader: reader.list_steps("a", is_ascending=False, limit=3, after=1),
    "open steps": lambda reader: reader.open_steps("a"),
    "children": lambda reader: reader.children(["a"]),
    "ready steps": lambda reader: reader.ready_steps("a", ["f"], 9),
    "active": lambda reader: reader.count_active(["known", "due"], 9),
    "claimable": lambda reader: reader.claimable(["known", "due"], 50, 9),
    "next wake": lambda reader: reader.next_wake(["known", "due"]),
    "inbox": lambda reader: reader.inbox_of("a"),
    "event": lambda reader: reader.find_event("a"),
    "send": lambda reader: reader.find_send("a"),
    "created event": lambda reader: reader.created_event("a", "b"),
    "awaited event": lambda reader: reader.awaited_event("a", "b"),
    "waits": lambda reader: reader.count_waits("a", "b", below=None),
    "queued": lambda reader: reader.count_queued("a", "b"),
}
for _name, _status, _after, _up in itertools.product(
    (None, "known", "strange"), ("failed", "in_progress", "success"), (None, 15_000), (True, False)
):
    _which = WorkflowFilter(name=_name, status=_status, after=_after, is_ascending=_up)
    READS[f"list {_name} {_status} {_after} {_up}"] = functools.partial(
        PostgresReader.list_workflows, which=_which
    )


WRITES: dict[str, Callable[[PostgresTransaction], Any]] = {
    "release": lambda tx: tx.release_workflows("a", 1, is_dead=True),
    "wake blocked": lambda tx: tx.wake_blocked(["known", "due"], 1, 5),
    "run by": lambda tx: tx.run_by("a"),
    "delete": lambda tx: tx.delete_workflows(["a"]),
    "wake": lambda tx: tx.wake("a", 1),
    "wake waiting": lambda tx: tx.wake_waiting([f"a{n}" for n in range(100)], 1),
    "cut": lambda tx: tx.cut_journal("a", 1, 1),
    "clear inbox": lambda tx: tx.clear_inbox(["a"]),
    "delete inbox": lambda tx: tx.delete_inbox([1]),
    "config": lambda tx: tx.config(),
}


def touched(store: PostgresStore) -> dict[str, int]:
    """How many rows and entries of indexes the server goes through for each call."""
    count = (
        "SELECT sum(pg_stat_get_xact_tuples_returned(oid) + pg_stat_get_xact_tuples_fetched(oid))"
        " FROM pg_class WHERE relname LIKE 'perdure%'"
    )
    counts = {}
    with contextlib.suppress(ZeroDivisionError), store.transaction() as tx:
        assert isinstance(tx, PostgresTransaction)
        for name, call in {**READS, **WRITES}.items():
            before = int(tx._ask(count).fetchone()[0])
            call(tx)
            counts[name] = int(tx._ask(count).fetchone()[0]) - before
        raise ZeroDivisionError  # all is undone
    return counts


#: What is stored: a name, and what its workflows have.
STORED = (
    ("ended", "status, value, ended_at", "'success', '1', 1"),
    ("strange", "status, wake_at", "'in_progress', 40"),
    ("due", "status, wake_at", "'in_progress', 40"),
    ("known", "status, value, ended_at", "'success', '1', 1"),
)


@pytest.mark.parametrize("is_analyzed", [True, False])
def test_nothing_goes_through_more_than_it_needs(postgres_url: str, is_analyzed: bool) -> None:
    """With ten thousand workflows of each kind no statement goes through more than some pages of
    them, with plans for any parameter, also such as were made when there were none."""
    plans = "&options=-cplan_cache_mode%3Dforce_generic_plan"
    store = PostgresStore(f"{postgres_url}{STILL}{plans}")
    store.open(max_parallelism=None)
    touched(store)  # all is planned
    for kind, columns, values in STORED:
        execute(
            postgres_url,
            "INSERT INTO perdure_workflows (id, name, arguments, rules, created_at, start_at,"
            f" epoch, {columns}) SELECT '{kind}' || n, '{kind}', '{{}}', 1, 1, 1, 1, {values}"
            " FROM generate_series(1, 10000) n",
        )
    for state, columns, values in (
        ("settled", ", outcome, value", ", 'success', '1'"),
        ("ready", "", ""),
    ):
        execute(
            postgres_url,
            "INSERT INTO perdure_steps (workflow_id, number, kind, name, asked_position, asked_at,"
            f" asked_epoch, state{columns}) SELECT id, {len(state)}, 'action', 'a', 0, 0, 1,"
            f" '{state}'{values} FROM perdure_workflows WHERE seq <= 10000",
        )
    if is_analyzed:  # else the server would do so within a minute
        execute(postgres_url, "ANALYZE")
    counts = touched(store)
    store.close()
    assert {name: count for name, count in counts.items() if count > 2_000} == {}


@pytest.mark.parametrize("ids", [[], ["unknown"]])
def test_nothing_is_found_where_nothing_is(store: PostgresStore, ids: list[str]) -> None:
    """No ids, or unknown ones."""
    assert store.reader().load(ids) == []
    assert store.reader().states(ids) == []

"""Reads of the PostgreSQL store: no scan of a whole table. (What they give: perdure_sim.)"""

from __future__ import annotations

import re

import pytest
from tests.store.postgres.databases import execute

from perdure.store.base import WorkflowFilter
from perdure.store.postgres.pipeline import Rows
from perdure.store.postgres.reads import PostgresReader
from perdure.store.postgres.store import PostgresStore


def plans(url: str) -> dict[str, str]:
    """How the server would carry out each read."""
    asked: list[str] = []

    def execute_one(sql: str, parameters: object = ()) -> Rows:
        asked.append(sql)
        return Rows([(0, 0)] if "count(*)" in sql or "config" in sql else [], 0, None)

    reader = PostgresReader(
        execute_one, lambda statements: [execute_one(*each) for each in statements]
    )
    found = {}
    for name, read in {
        "load": lambda: reader.load(["a"]),
        "states": lambda: reader.states(["a"]),
        "list": lambda: reader.list_workflows(WorkflowFilter(after=5)),
        "list by name": lambda: reader.list_workflows(WorkflowFilter(name="a")),
        "list by status": lambda: reader.list_workflows(WorkflowFilter(status="failed")),
        "list blocked": lambda: reader.list_workflows(WorkflowFilter(is_blocked=True)),
        "steps": lambda: reader.list_steps("a", is_ascending=False, limit=3, after=1),
        "open steps": lambda: reader.open_steps("a"),
        "children": lambda: reader.children(["a"]),
        "ready steps": lambda: reader.ready_steps("a", ["f"], 9),
        "active": lambda: reader.count_active(["a"]),
        "claimable": lambda: reader.claimable(["a"], 1, 1),
        "next wake": lambda: reader.next_wake(["a"]),
        "inbox": lambda: reader.inbox_of("a"),
        "event": lambda: reader.find_event("a"),
        "send": lambda: reader.find_send("a"),
        "created event": lambda: reader.created_event("a", "b"),
    }.items():
        asked.clear()
        read()  # type: ignore[no-untyped-call]
        for number, sql in enumerate(asked):
            lines = execute(url, f"EXPLAIN (GENERIC_PLAN) {sql}")
            found[f"{name} {number}"] = "\n".join(line for (line,) in lines)
    return found


def test_no_read_scans_a_table(postgres_url: str) -> None:
    """With a hundred thousand workflows of which few are awake, each read goes by an index."""
    store = PostgresStore(postgres_url)
    store.open(max_parallelism=None)
    store.close()
    execute(
        postgres_url,
        "INSERT INTO perdure_workflows (id, name, arguments, rules, created_at, start_at, status,"
        " epoch, ended_at, value) SELECT 'w' || n, 'n' || n % 50, '{}', 1, 1, 1, 'success', 1, 1,"
        " '1' FROM generate_series(1, 100000) n",
    )
    execute(
        postgres_url,
        "INSERT INTO perdure_steps (workflow_id, number, kind, name, asked_position, asked_at,"
        " asked_epoch, state, outcome, value) SELECT id, 0, 'action', 'a', 0, 0, 1, 'settled',"
        " 'success', '1' FROM perdure_workflows WHERE seq <= 20000",
    )
    execute(postgres_url, "ANALYZE")
    for name, plan in plans(postgres_url).items():
        scans = re.findall(r"Seq Scan on perdure_(\w+)", plan)
        assert set(scans) <= {"inbox", "events", "ticks"}, f"{name}:\n{plan}"


@pytest.mark.parametrize("ids", [[], ["unknown"]])
def test_nothing_is_found_where_nothing_is(store: PostgresStore, ids: list[str]) -> None:
    """No ids, or unknown ones."""
    assert store.reader().load(ids) == []
    assert store.reader().states(ids) == []

"""Reads of the PostgreSQL store: none looks at more rows than it needs.

What they give is checked by `perdure_sim.check_store`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
import pytest
from tests.store.postgres.databases import execute

from perdure.store.base import WorkflowFilter
from perdure.store.postgres.address import PLANNING
from perdure.store.postgres.pipeline import Rows
from perdure.store.postgres.reads import PostgresReader
from perdure.store.postgres.store import PostgresStore

READS: dict[str, Callable[[PostgresReader], Any]] = {
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
}
for _name, _status, _after, _up in itertools.product(
    (None, "known", "strange"), ("failed", "in_progress", "success"), (None, 15_000), (True, False)
):
    _which = WorkflowFilter(name=_name, status=_status, after=_after, is_ascending=_up)
    READS[f"list {_name} {_status} {_after} {_up}"] = functools.partial(
        PostgresReader.list_workflows, which=_which
    )


def touched(url: str, read: Callable[[PostgresReader], Any]) -> int:
    """How many rows the server looks at, with plans that serve any parameter and settings as the
    store has them."""
    count = 0
    with psycopg.connect(url, autocommit=True) as connection:
        for setting in (*PLANNING, "plan_cache_mode=force_generic_plan"):
            connection.execute(f"SET {setting}".encode())

        def execute(sql: str, parameters: Sequence[Any] = ()) -> Rows:
            nonlocal count
            values = ", ".join(_literal(value) for value in parameters)
            connection.execute(f"PREPARE asked AS {sql}".encode())
            explain = "EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE asked"
            row = connection.execute(f"{explain}{f'({values})' if values else ''}".encode())
            ((found,),) = row.fetchall()
            count += _touched(found[0]["Plan"])
            connection.execute("DEALLOCATE asked")
            return Rows([(0, 0)] if "count(*)" in sql or "min(" in sql else [], 0, None)

        read(PostgresReader(execute, lambda asked: [execute(*each) for each in asked]))
    return count


def _touched(node: dict[str, Any]) -> int:
    below: int = sum(_touched(each) for each in node.get("Plans", ()))
    if "Scan" not in node["Node Type"]:
        return below
    removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    rows: float = (node["Actual Rows"] + removed) * node["Actual Loops"]
    return below + round(rows)


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return f"ARRAY[{', '.join(_literal(each) for each in value)}]::text[]"
    return str(value) if isinstance(value, int) else f"'{value}'"


#: What is stored: a name, and what its workflows have.
STORED = (
    ("ended", "status, value, ended_at", "'success', '1', 1"),
    ("strange", "status, wake_at", "'in_progress', 40"),
    ("due", "status, wake_at", "'in_progress', 40"),
    ("known", "status, value, ended_at", "'success', '1', 1"),
)


def test_no_read_looks_at_more_than_it_needs(postgres_url: str) -> None:
    """With tens of thousands of workflows of each kind, no read looks at more than some hundred
    rows: a page of each status, or the first ready steps."""
    store = PostgresStore(postgres_url)
    store.open(max_parallelism=None)
    store.close()
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
    execute(postgres_url, "ANALYZE")
    counts = {name: touched(postgres_url, read) for name, read in READS.items()}
    assert {name: count for name, count in counts.items() if count > 800} == {}


@pytest.mark.parametrize("ids", [[], ["unknown"]])
def test_nothing_is_found_where_nothing_is(store: PostgresStore, ids: list[str]) -> None:
    """No ids, or unknown ones."""
    assert store.reader().load(ids) == []
    assert store.reader().states(ids) == []

"""Statements that write one row, or many by one."""

from __future__ import annotations

from perdure.store.postgres.statements import Insert, Update


def test_one_row_goes_as_it_is() -> None:
    """Each value is a parameter."""
    insert = Insert("t", ("id", "epoch"))
    assert insert([("a", 1)]) == ("INSERT INTO t (id, epoch) VALUES ($1, $2)", ("a", 1))
    update = Update("t", ("epoch",), ("id",), returning="t.id", only_if="t.state = 'ready'")
    sql = "UPDATE t t SET epoch = $1 WHERE t.id = $2 AND t.state = 'ready' RETURNING t.id"
    assert update([(1, "a")]) == (sql, (1, "a"))


def test_many_rows_go_as_lists() -> None:
    """One for each column, typed by its name, and in their order."""
    sql, values = Insert("t", ("id", "epoch"))([("a", 1), ("b", None)])
    assert "unnest($1::text[], $2::bigint[])" in sql
    assert "ORDER BY nth" in sql
    assert values == [["a", "b"], [1, None]]
    sql, values = Update("t", ("epoch",), ("id",), fence=True)([(1, "a"), (2, "b")], "w")
    assert "SET epoch = n.epoch FROM unnest($1::bigint[], $2::text[])" in sql
    assert "WHERE id = $3 AND NOT fenced" in sql
    assert values == ([1, 2], ["a", "b"], "w")

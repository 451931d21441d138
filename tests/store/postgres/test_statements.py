"""One row or many: the same is written, in the order that was given."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from perdure.store.postgres.pipeline import Pipeline
from perdure.store.postgres.statements import Insert, Update

NAMES = ("workflow_id", "number", "value")
INSERT = Insert("things", NAMES)
UPDATE = Update("things", ("value",), ("workflow_id", "number"), returning="t.number")
ROWS = [("b", 2, 'a "quoted" \\ text'), ("a", 1, None), ("a", 3, "")]


@pytest.fixture
def pipeline(postgres_url: str) -> Iterator[Pipeline]:
    with psycopg.connect(postgres_url, autocommit=True) as db:
        db.execute(
            "CREATE TABLE things (seq bigserial, workflow_id text, number bigint, value text)"
        )
        yield Pipeline(db, prepares=True)


def stored(pipeline: Pipeline) -> list[tuple[object, ...]]:
    sql = "SELECT workflow_id, number, value FROM things ORDER BY seq"
    return pipeline.ask(sql).fetchall()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_rows_are_inserted_in_their_order(pipeline: Pipeline, count: int) -> None:
    """With nothing and with anything in a column."""
    pipeline.ask(*INSERT(ROWS[:count]))
    assert stored(pipeline) == ROWS[:count]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_only_the_rows_with_the_keys_are_updated(pipeline: Pipeline, count: int) -> None:
    """Those that are not there are missing in what is given back."""
    pipeline.ask(*INSERT(ROWS[:2]))
    wanted = [("new", "b", 2), (None, "c", 2), ("other", "a", 1)][:count]
    found = sorted(number for (number,) in pipeline.ask(*UPDATE(wanted)))
    assert found == sorted(number for _, key, number in wanted if key != "c")
    expected = {1: None, 2: 'a "quoted" \\ text'} | {
        number: value for value, key, number in wanted if key != "c"
    }
    assert {number: value for _, number, value in stored(pipeline)} == expected

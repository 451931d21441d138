"""The engine's statements: several in one round trip, texts and numbers to the letter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from perdure.store.postgres.pipeline import BEGIN, Pipeline, Rows

ODD = 'O\'Neil "q" \\ {a,b} NULL %s $1 \n\t é 𝄞 \u2028'


@pytest.fixture(params=[True, False], ids=["prepared", "not prepared"])
def pipeline(postgres_url: str, request: pytest.FixtureRequest) -> Iterator[Pipeline]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield Pipeline(connection, prepares=request.param)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("text", ODD),
        ("text", ""),
        ("text", None),
        ("bigint", -(2**62)),
        ("boolean", True),
        ("boolean", False),
    ],
)
def test_values_come_back(pipeline: Pipeline, kind: str, value: Any) -> None:
    """Alone and in a list, each to the letter."""
    for _ in range(2):
        assert pipeline.ask(f"SELECT $1::{kind}", (value,)).fetchall() == [(value,)]
        rows = pipeline.ask(f"SELECT * FROM unnest($1::{kind}[])", ([value, None, value],))
        assert [row[0] for row in rows] == [value, None, value]


def test_several_statements_run_in_their_order(pipeline: Pipeline) -> None:
    """What each gave, or changed, is told in that order."""
    pipeline.queue("CREATE TEMP TABLE t (x int)")
    pipeline.queue("INSERT INTO t SELECT * FROM generate_series(1, $1)", (3,))
    pipeline.queue("SELECT x FROM t ORDER BY x")
    _, inserted, found = pipeline.run()
    assert (inserted.count, found.count, found.fetchone()) == (3, 3, (1,))
    assert pipeline.run() == []


def test_after_an_error_nothing_more_is_run(pipeline: Pipeline) -> None:
    """The first error is raised; the pipeline can be used again."""
    pipeline.ask("CREATE TEMP TABLE t (x int)")
    pipeline.queue("SELECT 1/0")
    pipeline.queue("INSERT INTO t VALUES (1)")
    with pytest.raises(psycopg.errors.DivisionByZero):
        pipeline.run()
    assert pipeline.ask("SELECT count(*) FROM t").fetchone() == (0,)
    with pytest.raises(psycopg.errors.DivisionByZero):
        pipeline.ask("SELECT 1/0")


def test_a_check_sees_what_was_done(pipeline: Pipeline) -> None:
    """What it raises is raised."""

    def check(rows: Rows) -> None:
        raise LookupError(rows.count)

    pipeline.queue("SELECT 1", (), check)
    assert pipeline.has_checks
    with pytest.raises(LookupError, match="1"):
        pipeline.run()


def test_a_text_with_a_nul_is_refused(pipeline: Pipeline) -> None:
    """It would be cut off there; the pipeline can be used again."""
    for value in ("a\0b", ["a\0b"]):
        with pytest.raises(psycopg.DataError, match="NUL"):
            pipeline.ask("SELECT $1::text", (value,))
    assert pipeline.ask("SELECT 1").fetchone() == (1,)


def test_a_lost_connection_is_an_error(pipeline: Pipeline) -> None:
    """And no endless wait."""
    with pytest.raises(psycopg.OperationalError):
        pipeline.ask("SELECT pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(psycopg.OperationalError):
        pipeline.ask("SELECT 1")


def test_what_is_queued_can_be_told(pipeline: Pipeline) -> None:
    """Whether it is a transaction with nothing in it."""
    pipeline.queue(BEGIN)
    assert pipeline.is_only_begun
    pipeline.queue("SELECT 1")
    assert pipeline.begins and not pipeline.is_only_begun
    pipeline.clear()
    assert not pipeline.begins

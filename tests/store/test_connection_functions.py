"""Functions, aggregates and collations that a step adds to its connection are its own."""

from __future__ import annotations

import contextlib
import functools
import pathlib
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from tests.store.fenced import amid_others, mutate, neighbours, query, refused

from perdure.store.connection import Connection


@pytest.fixture
def db(tmp_path: pathlib.Path) -> Iterator[Connection]:
    with amid_others(tmp_path) as connection:
        yield connection


class Total:
    """An aggregate, also for windows."""

    def __init__(self) -> None:
        self.total = 0

    def step(self, value: int) -> None:
        self.total += value

    def inverse(self, value: int) -> None:
        self.total -= value

    def value(self) -> int:
        return self.total

    finalize = value


def define_all(db: Connection) -> Any:
    """What a step may add to its connection, used."""
    db.create_function("twice", 1, lambda value: value * 2, deterministic=True)
    db.create_function("twice", 2, lambda value, factor: value * 2 * factor)
    db.create_aggregate("sum_up", 1, Total)
    db.create_window_function("sum_over", 1, Total)
    db.create_collation("backwards", lambda a, b: (a < b) - (a > b))
    sql = (
        "SELECT twice(x), twice(x, 3), (SELECT sum_up(x) FROM v), sum_over(x) OVER (ORDER BY x)"
        " FROM v ORDER BY text COLLATE backwards"
    )
    return db.execute(f"WITH v(x, text) AS (VALUES (1, 'a'), (2, 'b')) {sql}").fetchall()


@pytest.mark.parametrize("run", [mutate, query])
@pytest.mark.parametrize("fails", [False, True])
def test_functions_are_of_the_step_that_defines_them(db: Connection, run: Any, fails: bool) -> None:
    """Others would find them by chance: in this process, after this step."""
    found: list[Any] = []

    def step() -> None:
        found.append(define_all(db))
        if fails:
            raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext():
            run(db, step)
    assert found == [[(4, 12, 3, 3), (2, 6, 3, 1)]] * 2
    for gone in ("twice(1)", "twice(1, 2)", "sum_up(1)", "'a' COLLATE backwards = 'b'"):
        with pytest.raises(sqlite3.OperationalError, match=r"no such (function|collation)"):
            mutate(db, functools.partial(db.execute, f"SELECT {gone}"))
    with pytest.raises(sqlite3.OperationalError, match=r"no such (function|collation)"):
        db.engine_execute("SELECT twice(1)")
    assert neighbours(db) == 1


def test_functions_that_others_rely_on_are_not_replaced(db: Connection) -> None:
    """SQLite's own, and one that the step has called from inside; in any case of letters."""
    for name in ("lower", "LOWER", "Count"):
        define = functools.partial(db.create_function, name, 1, str)
        refused(functools.partial(mutate, db, define), "SQLite has one")
    refused(lambda: mutate(db, lambda: db.create_aggregate("sum", 1, Total)), "sum")
    refused(lambda: mutate(db, lambda: db.create_collation("NoCase", lambda a, b: 0)), "NoCase")
    assert db.engine_execute("SELECT lower('A'), 'a' = 'A' COLLATE NOCASE").fetchone() == ("a", 1)


def test_functions_of_nested_steps(db: Connection) -> None:
    """The inner one may not touch the outer one's, and takes its own away."""

    def inner() -> None:
        refused(lambda: db.create_function("mine", 0, lambda: 2), "mine")
        db.create_function("within", 0, lambda: 3)

    def outer() -> list[Any]:
        db.create_function("mine", 0, lambda: 1)
        db.run_engine_code(lambda: db.run_user_code(inner, read_only=False))
        with pytest.raises(sqlite3.OperationalError, match="no such function"):
            db.execute("SELECT within()")
        return list(db.execute("SELECT mine()").fetchone())

    assert mutate(db, outer) == [1]


def test_a_function_may_be_defined_anew(db: Connection) -> None:
    """By the step that defined it."""

    def step() -> Any:
        db.create_function("mine", 0, lambda: 1)
        db.create_function("MINE", 0, lambda: 2)
        return db.execute("SELECT mine()").fetchone()

    assert mutate(db, step) == (2,)


def test_a_function_is_not_defined_outside_of_a_step(db: Connection) -> None:
    """A connection that somebody has kept."""
    refused(lambda: db.create_function("mine", 0, lambda: 1), "outside of the step")

"""examples/script.py: run, run again, killed and run again."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.examples.programs import kill_when, lines_of, run


def _reports(folder: Path) -> list[tuple[str, int]]:
    with closing(sqlite3.connect(folder / "report.db")) as connection:
        return connection.execute("select * from reports order by day").fetchall()


def test_a_day_is_reported_once_however_often_it_is_started(tmp_path: Path) -> None:
    """A second run of the same day fetches nothing and prints the same."""
    first = run(tmp_path, "script.py", "2030-01-01")
    assert first == "2030-01-01: Succeeded(value=20000)\n"
    assert run(tmp_path, "script.py", "2030-01-01") == first
    assert len(lines_of(tmp_path / "fetched.log")) == 4
    assert _reports(tmp_path) == [("2030-01-01", 20_000)]


@pytest.mark.chaos
def test_a_killed_run_is_finished_by_the_next_one(tmp_path: Path) -> None:
    """What the killed run had fetched and recorded is not fetched again; the next day's run does
    what was left of both days."""
    log = tmp_path / "fetched.log"
    kill_when(tmp_path, lambda: len(lines_of(log)) >= 2, "script.py", "2030-01-01")
    assert run(tmp_path, "script.py", "2030-01-02") == "2030-01-02: Succeeded(value=20000)\n"
    assert _reports(tmp_path) == [("2030-01-01", 20_000), ("2030-01-02", 20_000)]
    first_day = [line for line in lines_of(log) if line.startswith("2030-01-01")]
    # The one whose outcome was not recorded when the kill came may have run twice.
    assert {line.split()[1] for line in first_day} == {"Bergen", "Lima", "Osaka", "Turin"}
    assert 4 <= len(first_day) <= 5

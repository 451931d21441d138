"""Raw commits to the same disk, or server, with the same settings: the floor of a durable step.

One connection, one thread, one row a commit. The engine cannot commit a lone step faster than
this; under load it shares commits between steps and may go beyond.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Literal, TypeAlias

import attrs

Durability: TypeAlias = Literal["disk", "process"]

#: Commits of one measurement: long enough for a stable median, some 0.1 s on a fast disk.
COMMITS = 600
#: Commits before it, not counted: the file grows and is written back for the first time.
WARM_UP = 50

_SYNCHRONOUS = {"disk": "FULL", "process": "NORMAL"}
#: About what a small step stores.
_VALUE = "x" * 120


@attrs.frozen
class Raw:
    """How long each of many one-row commits took, in seconds."""

    seconds: tuple[float, ...]

    def __add__(self, other: Raw) -> Raw:
        return Raw(self.seconds + other.seconds)

    @property
    def rate(self) -> float:
        """Commits per second, one after another."""
        return len(self.seconds) / sum(self.seconds)

    @property
    def p50_ms(self) -> float:
        """Median of one commit, in milliseconds."""
        return median(self.seconds) * 1000


def _time(insert: Callable[[int], object]) -> Raw:
    seconds = []
    for number in range(WARM_UP + COMMITS):
        begin = perf_counter()
        insert(number)
        seconds.append(perf_counter() - begin)
    return Raw(tuple(seconds[WARM_UP:]))


def commits_to_file(folder: Path, durability: Durability) -> Raw:
    """Time `COMMITS` commits of one row each into a new database in `folder`, then remove it."""
    path = folder / "raw.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {_SYNCHRONOUS[durability]}")
        connection.execute("CREATE TABLE raw (number INTEGER PRIMARY KEY, value TEXT NOT NULL)")
        raw = _time(lambda n: connection.execute("INSERT INTO raw VALUES (?, ?)", (n, _VALUE)))
    path.unlink()
    return raw


def commits_to_server(address: str) -> Raw:
    """The same with a PostgreSQL database, whose table is left there."""
    import psycopg

    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("CREATE TABLE raw (number bigint PRIMARY KEY, value text NOT NULL)")
        # Prepared by the driver after its first uses: one round trip each.
        return _time(lambda n: connection.execute("INSERT INTO raw VALUES (%s, %s)", (n, _VALUE)))

"""The connections for reads: shared by threads, never closed under one that executes."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from perdure.errors import NotOpen, StoreBusy, StoreError
from perdure.store.connection import translate
from perdure.store.readers import IDLE_MAX, ReaderPool, Rows, reading


class Made:
    """Makes connections to one file, and counts those that are open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connections: list[sqlite3.Connection] = []
        self.reached = threading.Semaphore(0)
        self.go_on = threading.Event()

    def __call__(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, check_same_thread=False)
        connection.create_function("wait_here", 0, self.wait_here)
        self.connections.append(connection)
        return connection

    def wait_here(self) -> int:
        """Called by SQL: a read that is under way for as long as the test likes."""
        self.reached.release()
        assert self.go_on.wait(30)
        return 7

    def count_open(self) -> int:
        """How many connections were not closed."""
        return sum(map(is_open, self.connections))


def is_open(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("SELECT 1")
    except sqlite3.ProgrammingError:
        return False
    return True


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path / "app.db")


@pytest.fixture
def pool(made: Made) -> Iterator[ReaderPool]:
    pool = ReaderPool(made, translate, "app.db")
    yield pool
    made.go_on.set()
    pool.close()


def in_threads(count: int, fn: Callable[[], Any]) -> tuple[list[threading.Thread], list[Any]]:
    """Started threads that call `fn`, and where what it returned goes."""
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(fn())) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, results


def test_threads_that_ended_leave_no_connection(made: Made, pool: ReaderPool) -> None:
    """One thread after the other reads over one and the same connection."""
    for _ in range(20):
        (thread,), results = in_threads(1, lambda: pool.execute("SELECT 7").fetchone())
        thread.join()
        assert results == [(7,)]
    assert len(made.connections) == 1


def test_only_a_few_connections_are_kept(made: Made, pool: ReaderPool) -> None:
    """Reads at one time each have their own; afterwards the surplus is closed."""
    count = IDLE_MAX + 3
    threads, results = in_threads(count, lambda: pool.execute("SELECT wait_here()").fetchone())
    for _ in threads:
        assert made.reached.acquire(timeout=30)
    assert len(made.connections) == count
    made.go_on.set()
    for thread in threads:
        thread.join()
    assert results == [(7,)] * count
    assert made.count_open() == IDLE_MAX


def test_closing_waits_for_the_read_under_way(made: Made, pool: ReaderPool) -> None:
    """Closing a connection that executes would crash the process: the read ends whole, first."""
    (reading_thread,), results = in_threads(1, lambda: pool.execute("SELECT wait_here()"))
    assert made.reached.acquire(timeout=30)
    (closing,), closed = in_threads(1, pool.close)
    while closing.is_alive() and not pool._is_closed:
        closing.join(0.001)  # until it has come that far
    with pytest.raises(NotOpen, match=r"^app\.db: the store was closed"):
        pool.execute("SELECT 1")
    assert (results, closed) == ([], [])
    made.go_on.set()
    reading_thread.join()
    closing.join()
    assert results[0].fetchall() == [(7,)]
    assert closed == [None]
    assert made.count_open() == 0


def test_a_read_after_the_close_says_so(made: Made, pool: ReaderPool) -> None:
    """It is `NotOpen`, not an error of sqlite3's, and opens nothing."""
    assert pool.execute("SELECT 1").fetchone() == (1,)
    pool.close()
    pool.close()
    with pytest.raises(NotOpen, match="while the manager is open"):
        pool.execute("SELECT 1")
    assert (len(made.connections), made.count_open()) == (1, 0)


def test_trouble_is_translated_and_gives_the_place_back(made: Made, pool: ReaderPool) -> None:
    """A failed read, or connection, leaves no place taken: closing would wait for ever."""
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        pool.execute("SELECT * FROM missing")
    plain = sqlite3.connect(made.path, isolation_level=None)
    plain.execute("CREATE TABLE t (a)")
    assert pool.execute("SELECT * FROM t").fetchall() == []
    plain.execute("BEGIN EXCLUSIVE")
    made.connections[0].execute("PRAGMA busy_timeout = 0")
    with pytest.raises(StoreBusy):
        pool.execute("SELECT * FROM t")
    plain.close()
    assert pool.execute("SELECT count(*) FROM t").fetchone() == (0,)

    def fail() -> sqlite3.Connection:
        return sqlite3.connect(made.path / "missing" / "app.db")

    broken = ReaderPool(fail, translate, "app.db")
    with pytest.raises(StoreError, match="unable to open"):
        broken.execute("SELECT 1")
    broken.close()
    assert broken._taken == pool._taken == 0


def test_rows_are_all_there(made: Made) -> None:
    """Rows can be gone over, taken at once, or one be asked for; there may be none."""
    run = reading(made().execute, translate)
    rows = run("SELECT ? UNION ALL SELECT 2", (1,))
    assert (list(rows), rows.fetchall(), rows.fetchone()) == ([(1,), (2,)], [(1,), (2,)], (1,))
    assert Rows([]).fetchone() is None


def test_a_read_elsewhere_is_translated(made: Made) -> None:
    """What a read through the engine's connection meets is a store error as well."""

    def run(_sql: str, _parameters: Any) -> sqlite3.Cursor:
        raise MemoryError

    with pytest.raises(StoreError, match="out of memory"):
        reading(run, translate)("SELECT 1")
    with pytest.raises(sqlite3.OperationalError, match="syntax"):
        reading(made().execute, translate)("SELEC")


def test_reads_at_once_see_one_moment(made: Made, pool: ReaderPool) -> None:
    """What is committed between two reads of one block is seen by neither, and by the next."""
    writer = sqlite3.connect(made.path)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("CREATE TABLE numbers (n)")
    writer.commit()
    with pool.at_once() as execute:
        assert execute("SELECT count(*) FROM numbers").fetchone() == (0,)
        writer.execute("INSERT INTO numbers VALUES (1)")
        writer.commit()
        assert execute("SELECT count(*) FROM numbers").fetchone() == (0,)
    assert pool.execute("SELECT count(*) FROM numbers").fetchone() == (1,)
    writer.close()

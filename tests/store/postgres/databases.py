"""What the tests of the PostgreSQL store do to its database from outside."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psycopg

#: So long that nothing is told or renewed in the middle of a test.
STILL = "&lease=600"


def execute(url: str, sql: str) -> list[tuple[Any, ...]]:
    """Run a statement on a connection of its own; its rows."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(sql.encode())
        return cursor.fetchall() if cursor.description else []


def soon(condition: Callable[[], bool]) -> bool:
    """Whether it comes true: at once, or while other threads go on."""
    pause = threading.Event()
    return any(condition() or pause.wait(0.01) for _ in range(1000))


def end_connections(url: str) -> None:
    """End all of perdure's, as a restart of the server would."""
    sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    execute(url, f"{sql} WHERE application_name = 'perdure' AND datname = current_database()")

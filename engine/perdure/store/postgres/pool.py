"""The connections that read a PostgreSQL database: a few, shared by all threads that ask.

What does not belong here: the statements (reads.py), and how to connect (store.py).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from perdure.errors import NotOpen, StoreError

from .pipeline import Pipeline, Rows

#: Connections kept while nobody reads: each is a process of the server's.
IDLE_MAX = 2

Statement = tuple[str, Sequence[Any]]


class Reading:
    """A connection of the pool's with its pipeline."""

    __slots__ = ("connection", "pipeline")

    def __init__(self, connection: psycopg.Connection[Any], *, prepares: bool) -> None:
        self.connection = connection
        self.pipeline = Pipeline(connection, prepares=prepares)


class ReaderPool:
    """Executes reads, each on a connection that nobody else uses meanwhile.

    Args:
        connect: makes a connection, in autocommit mode.
        translate: the store error that stands for an error of PostgreSQL's, if one does.
        text: the address, for messages.
        prepares: whether statements may be prepared for the life of a session.
    """

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]],
        translate: Callable[[BaseException], StoreError | None],
        text: str,
        *,
        prepares: bool,
    ) -> None:
        self._connect = connect
        self._translate = translate
        self._text = text
        self._prepares = prepares
        self._idle: list[Reading] = []
        self._is_closed = False
        self._process = os.getpid()
        self._lock = threading.Lock()

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        """Run a statement that reads; all its rows.

        Raises:
            NotOpen: the pool was closed.
            StoreError: the database is in trouble.
        """
        return self._run([(sql, parameters)])[0]

    def at_once(self, statements: Sequence[Statement]) -> list[Rows]:
        """Run statements that all see the database as it is at the first of them."""
        begin = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"
        return self._run([(begin, ()), *statements, ("COMMIT", ())])[1:-1]

    def close(self) -> None:
        """Close all connections; those in use are closed when they are given back."""
        if os.getpid() != self._process:
            return  # in a forked child the connections are the parent's
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for reading in idle:
            reading.connection.close()

    def _run(self, statements: Sequence[Statement]) -> list[Rows]:
        while True:
            reading = self._take()
            is_fresh = reading is None
            try:
                if reading is None:
                    reading = Reading(self._connect(), prepares=self._prepares)
                for sql, parameters in statements:
                    reading.pipeline.queue(sql, parameters)
                return reading.pipeline.run()
            except psycopg.Error as error:
                if not is_fresh and reading is not None and reading.connection.broken:
                    self._drop_idle()  # the server was restarted: all of them are dead
                    continue
                trouble = self._translate(error)
                if trouble is not None:
                    raise trouble from error
                raise
            finally:
                if reading is not None:
                    self._give_back(reading)

    def _take(self) -> Reading | None:
        """The connection used last, if there is one to spare."""
        with self._lock:
            if self._is_closed:
                raise NotOpen(
                    f"{self._text}: the store was closed meanwhile: read while the manager is open"
                )
            return self._idle.pop() if self._idle else None

    def _give_back(self, reading: Reading) -> None:
        connection = reading.connection
        is_usable = (
            not connection.closed
            and connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        )
        with self._lock:
            if is_usable and not self._is_closed and len(self._idle) < IDLE_MAX:
                self._idle.append(reading)
                return
        connection.close()

    def _drop_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for reading in idle:
            reading.connection.close()

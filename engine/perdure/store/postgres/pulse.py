"""A process's signs of life, and its ear: one thread with a connection of its own.

Three times in a lease it renews the leases of this process's workers; the database's clock alone
says when one has run out. In between it listens for what other processes have committed, and with
each sign of life it learns the database's time.

A notification is a hint: it may be missed. So whoever looks at `take_news` is told every few
seconds that there may be some.
What does not belong here: what a dead worker leaves, and transactions.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Collection
from typing import Any

import psycopg

from .pipeline import Pipeline

logger = logging.getLogger("perdure.store")

#: The channel of notifications.
CHANNEL = "perdure"

#: How often at least there may be news, in seconds, whatever was heard.
POLL_SECONDS = 5.0

#: How long to wait before another try to connect, in seconds.
RETRY_SECONDS = 0.5

#: Signs of life in a lease: two may be late, or lost.
SIGNS_IN_LEASE = 3

_RENEW = (
    "UPDATE perdure_workers SET lease_until = clock_timestamp() + make_interval(secs => $2)"
    " WHERE id = ANY($1::text[]) AND NOT fenced"
)
_NOW = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"


class Pulse:
    """The thread; it is started by `start` and ends with `stop`.

    Args:
        connect: makes a connection, in autocommit mode.
        lease: seconds.
        is_own: whether the server's process of this number works for ourselves.
        tell_time: called with the database's time, in ms since the epoch.
        wake: called when there may be news.
        listens: whether the connection is ours alone, so that it hears anything.
    """

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]],
        *,
        lease: float,
        is_own: Callable[[int], bool],
        tell_time: Callable[[int], object],
        wake: Callable[[], None],
        listens: bool,
    ) -> None:
        self._connect = connect
        self._lease = lease
        self._is_own = is_own
        self._tell_time = tell_time
        self._wake = wake
        self._listens = listens
        self._workers: set[str] = set()
        self._news = False
        self._stopping = threading.Event()
        self._pause = min(lease / SIGNS_IN_LEASE, POLL_SECONDS)
        self._connection: psycopg.Connection[Any]
        self._thread: threading.Thread | None = None

    @property
    def _is_stopping(self) -> bool:
        return self._stopping.is_set()

    def start(self) -> None:
        """Connect, listen, and begin.

        Raises:
            psycopg.Error: it cannot connect.
        """
        self._connection = self._connect()
        try:
            pipeline = self._begin()
        except BaseException:
            self._connection.close()
            raise
        self._thread = threading.Thread(
            target=self._main, args=(pipeline,), name="perdure-pulse", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Be silent; blocks until the thread has ended."""
        self._stopping.set()
        if self._thread is None:
            return
        # Whatever it waits for: its connection ends. (A copy, for it may just be closing its own.)
        with contextlib.suppress(OSError, psycopg.Error):
            with socket.socket(fileno=os.dup(self._connection.pgconn.socket)) as copy:
                copy.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._thread = None

    def keep_alive(self, worker_id: str) -> None:
        """Give signs of life for this worker from now on."""
        self._workers.add(worker_id)

    def let_go(self, worker_id: str) -> None:
        """No more for this one."""
        self._workers.discard(worker_id)

    @property
    def workers(self) -> Collection[str]:
        """Those that are kept alive."""
        return sorted(self._workers)

    def take_news(self) -> bool:
        """Whether others may have committed since the last call. Cheap: a flag."""
        if not self._news:
            return False
        self._news = False
        return True

    @property
    def has_news(self) -> bool:
        """Whether `take_news` would tell of any."""
        return self._news

    def _tell_news(self) -> None:
        self._news = True
        self._wake()

    # --- the thread

    def _main(self, pipeline: Pipeline) -> None:
        is_lost = False
        while not self._is_stopping:
            try:
                if self._connection.closed:
                    self._connection = self._connect()
                    pipeline = self._begin()
                    is_lost = False
                elif not self._is_stopping:
                    self._listen()
                    self._give_sign(pipeline)
            except (psycopg.Error, OSError) as error:
                self._connection.close()
                if not (self._is_stopping or is_lost):
                    logger.warning("the connection for signs of life is lost: %s", error)
                is_lost = True
                self._stopping.wait(RETRY_SECONDS)
            self._tell_news()  # what was said meanwhile may not have been heard
        self._connection.close()

    def _begin(self) -> Pipeline:
        pipeline = Pipeline(self._connection, prepares=self._listens)
        if self._listens:
            pipeline.queue(f"LISTEN {CHANNEL}")
        self._give_sign(pipeline)
        return pipeline

    def _give_sign(self, pipeline: Pipeline) -> None:
        if self._workers:
            # Should the engine's own transaction hold the row, this waits, and renews after it.
            pipeline.queue(_RENEW, (sorted(self._workers), self._lease))
        pipeline.queue(_NOW)
        self._tell_time(pipeline.run()[-1].fetchone()[0])

    def _listen(self) -> None:
        """Hear what is said until the next sign of life is due."""
        for said in self._connection.notifies(timeout=self._pause):
            if not self._is_own(said.pid):
                self._tell_news()

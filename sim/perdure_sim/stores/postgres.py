"""The PostgreSQL store in simulated worlds: a real server, and runs that follow each other on it.

Everything is in one schema of its own, which is made anew for each run, so that nothing else in the
database is touched. Simulated processes have connections of their own, as real ones do, but no
pulse: the world says who lives, and a commit of one is news for the others at once where
PostgreSQL would have been told to notify them.

There is no power loss: what is committed is never lost. No test may wait for a lock: all processes
are in one thread, so whoever holds it cannot go on meanwhile.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, suppress
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg.pq import TransactionStatus

from perdure.store.base import Store, Transaction
from perdure.store.postgres.store import PostgresStore, _OpenTransaction

from ..world.disks import Disk

Setup = Callable[[Any], object]

_numbers = itertools.count(1)


class PostgresSchema:
    """Makes the disks of runs that follow each other, all in one schema. Close it at the end.

    Args:
        address: ``postgresql://…``; of a role that may create schemas in that database.
    """

    def __init__(self, address: str) -> None:
        self._name = f"perdure_simulation_{os.getpid()}_{next(_numbers)}"
        self.address = _with_schema(address, self._name)
        self._keeper: psycopg.Connection[Any] | None = None

    def __call__(self) -> Disk:
        """The disk of the next run."""
        run = _Run(self)
        return Disk(
            open=lambda: SimulatedPostgres(run),
            crash=_crash,
            lose_lease=run.lose_lease,
            keep_commits=lambda: None,
            count_commits=lambda: 0,
            undo_commits=None,  # what is committed is never lost
            connect=run.connect,
            prepare=run.prepare,
            close=lambda: None,
        )

    def renew(self, setup: Setup | None) -> None:
        """Make an empty schema with what the application makes in it."""
        if self._keeper is None:
            self._keeper = self.connect()
        self._keeper.execute(
            f"DROP SCHEMA IF EXISTS {self._name} CASCADE; CREATE SCHEMA {self._name}".encode()
        )
        if setup is not None:
            with self._keeper.transaction():
                setup(self._keeper)

    def connect(self) -> psycopg.Connection[Any]:
        """A connection of the application's own, in autocommit mode."""
        parameters = PostgresStore(self.address).address.connection_parameters(
            "client_min_messages=warning"
        )
        return psycopg.connect(**parameters, autocommit=True)

    def close(self) -> None:
        """Drop the schema."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.execute(f"DROP SCHEMA IF EXISTS {self._name} CASCADE".encode())
            keeper.close()


def _with_schema(address: str, name: str) -> str:
    parts = urlsplit(address)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    query["options"] = f"{query.get('options', '')} -c search_path={name}".strip()
    return urlunsplit(parts._replace(query=urlencode(query, quote_via=quote)))


class _Run:
    """What lasts for one run: who of its workers lives, and how often there was news."""

    def __init__(self, schema: PostgresSchema) -> None:
        self._schema = schema
        self._setup: Setup | None = None
        self._is_begun = False
        self.address = schema.address
        self.held: dict[str, SimulatedPostgres] = {}
        self.news = 0

    def prepare(self, setup: Setup) -> None:
        """Have the application's tables made, before the first process opens the store."""
        self._setup = setup

    def begin(self) -> None:
        """Make the schema, when it is first needed."""
        if not self._is_begun:
            self._is_begun = True
            self._schema.renew(self._setup)

    def connect(self) -> psycopg.Connection[Any]:
        """See `Disk.connect`."""
        self.begin()
        return self._schema.connect()

    def lose_lease(self, worker_id: str) -> None:
        """The others take this worker for dead, though it lives."""
        self.held.pop(worker_id, None)


def _crash(store: Store) -> None:
    assert isinstance(store, SimulatedPostgres)
    store.die()


class SimulatedPostgres(PostgresStore):
    """The store of one simulated process."""

    def __init__(self, run: _Run) -> None:
        super().__init__(run.address, durability="process")
        self._run = run
        # How much news is none: that of the last look, and our own since then.
        self._seen = -1

    def open(self, *, max_parallelism: int | None, works: bool = False) -> None:
        """See `base.Store.open`."""
        self._run.begin()
        super().open(max_parallelism=max_parallelism, works=works)
        self._seen = self._run.news - 1  # what was committed before is news

    def _start_pulse(self) -> None:
        pass

    def die(self) -> None:
        """Its process is gone: what was open is undone before anybody else looks."""
        session = self._session
        if session is not None and session.info.transaction_status in (
            TransactionStatus.INTRANS,
            TransactionStatus.INERROR,
        ):
            with suppress(psycopg.Error):
                session.pgconn.exec_(b"ROLLBACK")
        self.close()

    def close(self) -> None:
        """See `base.Store.close`."""
        super().close()
        held = self._run.held
        for worker_id in [name for name, store in held.items() if store is self]:
            del held[worker_id]

    def transaction(self) -> AbstractContextManager[Transaction]:
        """See `base.Store.transaction`."""
        return _Telling(self)

    def told(self) -> None:
        """What was committed is news for the others."""
        self._run.news += 1
        self._seen += 1

    def has_changed(self) -> bool:
        """See `base.Store.has_changed`."""
        if self._seen == self._run.news:
            return False
        self._seen = self._run.news
        return True

    def hold_worker(self, worker_id: str) -> None:
        """See `base.Store.hold_worker`."""
        self._run.held[worker_id] = self

    def release_worker(self, worker_id: str) -> None:
        """See `base.Store.release_worker`."""
        self._run.held.pop(worker_id, None)

    def dead_workers(self, worker_ids: Collection[str]) -> list[str]:
        """See `base.Store.dead_workers`."""
        return [worker_id for worker_id in worker_ids if worker_id not in self._run.held]


class _Telling(_OpenTransaction):
    """Tells the others where PostgreSQL would be told to notify them."""

    _store: SimulatedPostgres

    def _commit(self) -> None:
        super()._commit()
        if self._transaction.is_news:
            self._store.told()

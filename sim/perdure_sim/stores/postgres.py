"""The PostgreSQL store in simulated worlds: a real server, and runs that follow each other on it.

Everything is in two schemas of its own, so that nothing else in the database is touched: perdure's
tables, which are emptied before each run, and the application's, which are made anew. Simulated
processes have connections of their own, as real ones do, but no pulse: the world says who lives,
and what one has committed is news for the others where PostgreSQL would notify them.

There is no power loss: what is committed is never lost. No test may wait for a lock: all processes
are in one thread, so whoever holds it cannot go on meanwhile.
"""

from __future__ import annotations

import itertools
import os
import weakref
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, closing, suppress
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg.pq import TransactionStatus

from perdure.core.limits import PARALLELISM_DEFAULT
from perdure.store.base import GuestTransaction, Store, Transaction
from perdure.store.postgres.address import parse
from perdure.store.postgres.connection import Connection
from perdure.store.postgres.pipeline import Pipeline, Rows
from perdure.store.postgres.reads import Statement
from perdure.store.postgres.store import PostgresStore, _OpenTransaction
from perdure.store.postgres.writes import _RENEW

from ..world.disks import Disk

Setup = Callable[[Any], object]

T = TypeVar("T")

_RESTART_SEQUENCES = (
    "SELECT setval(s.seqrelid::regclass, s.seqstart, false) FROM pg_sequence s"
    " JOIN pg_class c ON c.oid = s.seqrelid WHERE c.relnamespace = '{schema}'::regnamespace"
)

_numbers = itertools.count(1)


class PostgresSchemas:
    """Makes the disks of runs that follow each other, all in the same schemas. Close it at the end.

    Args:
        address: ``postgresql://…``; of a role that may create schemas in that database.
        hears_all: all that is committed is news, as on SQLite, and not only what PostgreSQL is told
            to notify others of: so the engine's turns are the same as there.
    """

    def __init__(self, address: str, *, hears_all: bool = False) -> None:
        self.hears_all = hears_all
        self._engine = f"perdure_simulation_{os.getpid()}_{next(_numbers)}"
        self._app = f"{self._engine}_app"
        #: Whoever makes a table by this address makes it in the application's schema.
        self.address = _with_schemas(address, self._app, self._engine)
        self._engine_address = _with_schemas(address, self._engine)
        self._keeper: psycopg.Connection[Any] | None = None
        self._clear = b""
        self._end: Callable[[], object] | None = None

    def __call__(self) -> Disk:
        """The disk of the next run."""
        run = _Run(self)

        def crash(store: Store) -> None:
            store.close()

        return Disk(
            open=lambda: SimulatedPostgres(run),
            crash=crash,
            lose_lease=run.lose_lease,
            keep_commits=lambda: None,
            count_commits=lambda: 0,
            undo_commits=None,  # what is committed is never lost
            over=run.over,
            connect=run.connect,
            prepare=run.prepare,
            close=lambda: None,
        )

    def renew(self, setup: Setup | None) -> None:
        """Empty perdure's tables, and have the application make its own anew."""
        if self._keeper is None:
            self._keeper = self._begin()
        self._keeper.execute(self._clear)
        if setup is not None:
            with self._keeper.transaction():
                setup(self._keeper)

    def limit(self, max_parallelism: int | None) -> None:
        """Set how many actions may run at once; None for the default."""
        assert self._keeper is not None
        limit = PARALLELISM_DEFAULT if max_parallelism is None else max_parallelism
        sql = f"UPDATE {self._engine}.perdure_config SET max_parallelism = %s"
        self._keeper.execute(sql.encode(), (limit,))

    def connect(self) -> psycopg.Connection[Any]:
        """A connection of the application's own, in autocommit mode."""
        # Nobody who holds a lock could go on while this waits for it.
        settings = ("client_min_messages=warning", "lock_timeout=5s")
        parameters = parse(self.address).connection_parameters(*settings)
        return psycopg.connect(**parameters, autocommit=True)

    def close(self) -> None:
        """Drop the schemas."""
        self._keeper = None
        if self._end is not None:
            self._end()

    def _begin(self) -> psycopg.Connection[Any]:
        keeper = self.connect()
        # A fuzzer runs a test as often as it likes, and does not say when it has ended.
        self._end = weakref.finalize(self, _end, keeper, (self._app, self._engine))
        name = self._engine  # it may be left from a process that was killed
        keeper.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE; CREATE SCHEMA {name}".encode())
        store = _Maker(self._engine_address)
        store.open(max_parallelism=None)
        store.close()
        tables = keeper.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = %s::regnamespace AND relkind = 'r'"
            " AND relname <> 'perdure_config'"
            " ORDER BY relname = 'perdure_workers'",  # workflows refer to their owners
            (self._engine,),
        )
        statements = [
            # Much faster than TRUNCATE, and sessions need no new plans after it.
            *(f"DELETE FROM {self._engine}.{name}" for (name,) in tables),
            _RESTART_SEQUENCES.format(schema=self._engine),
            f"DROP SCHEMA IF EXISTS {self._app} CASCADE",
            f"CREATE SCHEMA {self._app}",
        ]
        self._clear = "; ".join(statements).encode()
        return keeper


def _end(keeper: psycopg.Connection[Any], schemas: Sequence[str]) -> None:
    with closing(keeper):
        for name in schemas:
            keeper.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE".encode())


def _with_schemas(address: str, *names: str) -> str:
    parts = urlsplit(address)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    query["options"] = f"{query.get('options', '')} -c search_path={','.join(names)}".strip()
    return urlunsplit(parts._replace(query=urlencode(query, quote_via=quote)))


class _Maker(PostgresStore):
    """Makes perdure's tables, as any store does in a new database."""

    def _start_pulse(self) -> None:
        pass


class _Run:
    """What lasts for one run: who of its workers lives, and how often there was news."""

    def __init__(self, schemas: PostgresSchemas) -> None:
        self._schemas = schemas
        self._setup: Setup | None = None
        self._is_begun = self._is_limited = False
        self.address = schemas.address
        self.hears_all = schemas.hears_all
        self.held: dict[str, SimulatedPostgres] = {}
        self.news = 0

    def prepare(self, setup: Setup) -> None:
        """Have the application's tables made, before the first process opens the store."""
        self._setup = setup

    def begin(self) -> None:
        """Make the schema, when it is first needed."""
        if not self._is_begun:
            self._is_begun = True
            self._schemas.renew(self._setup)

    def limit(self, max_parallelism: int | None) -> None:
        """What the first to open the store says of it is what holds."""
        if not self._is_limited:
            self._is_limited = True
            self._schemas.limit(max_parallelism)

    def connect(self) -> psycopg.Connection[Any]:
        """See `Disk.connect`."""
        self.begin()
        return self._schemas.connect()

    def over(
        self, store: Store, fn: Callable[[GuestTransaction], T], before_commit: Callable[[], None]
    ) -> T:
        """See `Disk.over`: by the production engine's code for the transactions of users."""
        assert isinstance(store, SimulatedPostgres)
        with closing(self.connect()) as connection:
            try:
                with connection.transaction():
                    guest = store.guest(connection, max_parallelism=None)
                    value = fn(guest)
                    guest.check_open()
                    before_commit()
            except psycopg.Error as error:
                trouble = guest.translate(error)
                if trouble is not None:
                    raise trouble from error
                raise
        self.news += 1
        return value

    def lose_lease(self, worker_id: str) -> None:
        """The others take this worker for dead, though it lives."""
        self.held.pop(worker_id, None)


class SimulatedPostgres(PostgresStore):
    """The store of one simulated process."""

    tells_all = True  # the world has everybody look

    def __init__(self, run: _Run) -> None:
        super().__init__(run.address, durability="process")
        self._run = run
        self.hears_all = run.hears_all
        # How much news is none: that of the last look, and our own since then.
        self._seen = -1

    def open(self, *, max_parallelism: int | None, works: bool = False) -> None:
        """See `base.Store.open`."""
        self._run.begin()
        self._run.limit(max_parallelism)
        super().open(max_parallelism=max_parallelism, works=works)
        self._seen = self._run.news - 1  # what was committed before is news

    def _start_pulse(self) -> None:
        pass

    def _connect(self) -> Connection:
        session = super()._connect()
        session.statements = _Noting(session, prepares=self._prepares)
        return session

    def close(self) -> None:
        """See `base.Store.close`. What is open is undone before anybody else looks; left to the
        server, it would be a moment later."""
        session = self._session
        if session is not None and session.info.transaction_status in (
            TransactionStatus.INTRANS,
            TransactionStatus.INERROR,
        ):
            with suppress(psycopg.Error):
                session.pgconn.exec_(b"ROLLBACK")
        super().close()
        held = self._run.held
        for worker_id in [name for name, store in held.items() if store is self]:
            del held[worker_id]

    def transaction(self) -> AbstractContextManager[Transaction]:
        """See `base.Store.transaction`."""
        return _Telling(self)

    def _run_alone(self, connection: Connection, statement: Statement) -> bool:
        """Of what a worker does with its own workflows, nobody is notified."""
        is_stored = super()._run_alone(connection, statement)
        if is_stored and self.hears_all:
            self.told()
        return is_stored

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

    def __enter__(self) -> Transaction:
        transaction = super().__enter__()
        statements = self._session.statements
        assert isinstance(statements, _Noting)
        statements.has_written = False
        return transaction

    def _commit(self) -> None:
        super()._commit()
        statements = self._session.statements
        assert isinstance(statements, _Noting)
        if self._transaction.is_news or (self._store.hears_all and statements.has_written):
            self._store.told()


_WRITES = (b"INSERT", b"UPDATE", b"DELETE")


class _Noting(Pipeline):
    """Notes whether anything was written; that a worker lives is nothing."""

    has_written = False

    def run(self, *, last_may_fail: bool = False) -> list[Rows]:
        """See `Pipeline.run`."""
        texts = [sql for sql, _, _ in self._queue]
        found = super().run(last_may_fail=last_may_fail)
        for sql, rows in zip(texts, found, strict=False):  # the last one may have failed
            is_write = bool(rows.count) and (rows.tag or b"")[:6] in _WRITES
            if "nextval(" in sql or (is_write and sql != _RENEW):
                self.has_written = True
        return found

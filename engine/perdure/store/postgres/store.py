"""The PostgreSQL store: tables beside the application's own, for workers on several machines.

Connections, opening, liveness. A worker proves that it lives by renewing a lease (pulse.py); the
database's clock alone says when it has run out. Whoever takes a worker for dead locks its row,
which the worker's own commits lock first: so one of the two comes first, and the other one sees it.

Connections of a store: one for transactions, used by the engine's thread; one for signs of life and
notifications; a few for reads.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias, TypeVar

import psycopg
from psycopg.errors import DeadlockDetected, IntegrityError, LockNotAvailable, RaiseException
from psycopg.pq import TransactionStatus

from perdure.core.ids import WorkerId
from perdure.errors import (
    NotOpen,
    StoreError,
    StoreNotFound,
    StoreReadOnly,
    StoreUnavailable,
)

from ..base import (
    Access,
    Reader,
    StateWrite,
    StepWrite,
    Transaction,
    TransactionLost,
    in_transaction,
)
from ..versions import Schema
from . import alone
from .address import PLANNING, READING, parse
from .connection import Connection, Cursor
from .errors import translate_own
from .guest import Guest, open_guest
from .pipeline import BEGIN, Pipeline, Rows
from .pool import ReaderPool
from .pulse import CHANNEL, Pulse
from .reads import Execute, PostgresReader, Statement
from .schema import SCHEMA, check_encoding, create_tables, stored_version, upgrade_tables
from .writes import PostgresTransaction

T = TypeVar("T")

logger = logging.getLogger("perdure.store")

#: How often a worker tries to connect at its start, and how long it waits in between, in seconds.
OPEN_TRIES = 30
OPEN_PAUSE = 1.0

#: How long an idle engine waits until it looks after the dead, and how long while there is news, in
#: seconds.
IDLE_SECONDS = 0.5
ASK_SECONDS = 0.002

#: How often the upgrade of older tables is tried, with as long a pause: other transactions may hold
#: them, and while it waits for its locks, for two seconds each time, nobody else gets on.
UPGRADE_TRIES = 30

#: By what a transaction can be found after it: its id, and since when the server runs on which that
#: is its own. A standby that takes over may give the id again. (Its timeline would tell too, and a
#: restart keep it, but not every service that is called PostgreSQL lets one ask for that.) So may a
#: server that crashed, if nothing of the transaction was on its disk; and for that it need not have
#: ended: one of its processes was killed. Then its statistics begin anew, and anybody may see that.
Mark: TypeAlias = tuple[str, str]

_SERVER = (
    "concat_ws(' ', extract(epoch FROM pg_postmaster_start_time()),"
    " (SELECT extract(epoch FROM stats_reset) FROM pg_stat_bgwriter))"
)
_MARK = f"SELECT pg_current_xact_id()::text, {_SERVER}"
_FIND_MARK = f"SELECT CASE WHEN {_SERVER} = $2 THEN pg_xact_status($1::text::xid8) END"
#: PostgreSQL 13 has these functions.
MARKS_SINCE = 130_000
#: How long to wait between the questions what became of a transaction, in seconds.
CERTAIN_PAUSES = (0.05, 0.2, 0.5, 1.0)

#: Changes nothing, and fails where nothing may be changed.
_WRITE = "UPDATE perdure_config SET id = id WHERE false"

_REMEDY_MISSING = "give the address of a database that a worker, or a start, has made tables in"


def _no_time(_: int) -> None:
    pass


def _nothing() -> None:
    pass


class PostgresStore:
    """A store in a PostgreSQL database.

    Args:
        address: ``postgresql://…``; see address.py for the options that are ours.
        durability: ``"disk"`` or ``"process"`` (``synchronous_commit=off``: the last commits may be
            lost when the server crashes).
        access: "create" (make what is missing), "write" (the tables must be there) or "read"
            (they must be there, and nothing in them is changed).
        tell_time: called now and then with the database's time, in ms since the epoch.
        pause: waits for some seconds between two tries of `open`.
        schema: the tables that this code knows.

    Raises:
        ValueError: the address cannot be read.
    """

    shares_commits = False
    tells_all = False
    reads_need_engine = False

    def __init__(
        self,
        address: str,
        *,
        durability: str = "disk",
        access: Access = "create",
        tell_time: Callable[[int], object] = _no_time,
        pause: Callable[[float], object] | None = None,
        schema: Schema = SCHEMA,
    ) -> None:
        self.address = parse(address)
        self.text = self.address.text
        self._settings = self.address.engine_settings(durability)
        self._access = access
        self._tell_time = tell_time
        self._pause = threading.Event().wait if pause is None else pause
        self._prepares = not self.address.has_pgbouncer
        self._schema = schema
        self._check_version = functools.partial(schema.check, where=self.text)
        self._session: Connection | None = None
        self._pool: ReaderPool | None = None
        self._pulse: Pulse | None = None
        self._pid = 0
        self._wake: Callable[[], None] = _nothing
        #: A commit's connection was lost before it was answered.
        self._is_in_doubt = False
        #: What is stored as `session` of our workers, where it is not 0.
        self._sessions: dict[WorkerId, int] = {}

    # --- opening and closing

    def open(self, *, max_parallelism: int | None, works: bool = False) -> None:
        """See `base.Store.open`. A worker tries for about 30 seconds while the server is away, or
        takes no writes: it may be started while that is restarted, or changes its role."""
        if works and self.address.has_pgbouncer:
            raise StoreError(
                f"{self.text}: a worker listens and gives signs of life on connections of its own,"
                " which pgbouncer=true cannot keep: give workers the server's own address"
            )
        for _ in range(OPEN_TRIES - 1 if works else 0):
            try:
                self._open(max_parallelism, works=works)
                return
            except (StoreUnavailable, StoreReadOnly) as error:
                logger.warning("a worker cannot start yet, and tries again: %s", error)
                self._pause(OPEN_PAUSE)
        self._open(max_parallelism, works=works)

    def _open(self, max_parallelism: int | None, *, works: bool) -> None:
        try:
            self._prepare(max_parallelism)
            if works and self._session is not None:
                self._session.statements.ask(_WRITE)
            self._pool = ReaderPool(
                self._connect_reader, self._translate, self.text, prepares=self._prepares
            )
            self._start_pulse()
        except BaseException as error:
            self.close()
            trouble = self._translate(error)
            if trouble is not None:
                raise trouble from error
            raise

    def _start_pulse(self) -> None:
        self._pulse = Pulse(
            self._connect_pulse,
            lease=self.address.lease,
            is_own=self._is_own,
            tell_time=self._tell_time,
            wake=self._wake,
            listens=self._prepares,
        )
        self._pulse.start()

    def _prepare(self, max_parallelism: int | None) -> None:
        session = self._connect()
        self._session = session
        check_encoding(session, self.text)
        ask = session.statements.ask
        version = stored_version(ask, self.text)
        if version is None and self._access != "create":
            raise StoreNotFound(f"{self.text}: perdure has no tables in it: {_REMEDY_MISSING}")
        if self._access == "read":
            self._schema.check_readable(version, self.text)
        elif version is None:
            ask(BEGIN)
            create_tables(ask, max_parallelism, self.text, self._schema)
            ask("COMMIT")
        elif self._schema.is_older(version) and self._access == "create":
            self._upgrade(ask)
        else:
            self._check_version(version)

    def _upgrade(self, ask: Execute) -> None:
        for _ in range(UPGRADE_TRIES - 1):
            try:
                self._try_upgrade(ask)
                break
            except (LockNotAvailable, DeadlockDetected) as error:
                logger.warning("the upgrade of the schema is tried again: %s", error)
                ask("ROLLBACK")
                self._pause(OPEN_PAUSE)
        else:
            self._try_upgrade(ask)
        self._check_version(stored_version(ask, self.text))

    def _try_upgrade(self, ask: Execute) -> None:
        ask(BEGIN)
        version = upgrade_tables(ask, self.text, self._schema)
        ask(f"NOTIFY {CHANNEL}")  # who was struck off finds out at once
        ask("COMMIT")
        if version is not None:
            logger.warning(
                "%s: its schema was brought from version %d to %d: processes of an older perdure"
                " stop now",
                self.text,
                version,
                self._schema.version,
            )

    def close(self) -> None:
        """Close all connections. May be opened again."""
        pulse, self._pulse = self._pulse, None
        if pulse is not None:
            pulse.stop()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()
        self._drop_session()

    # --- connections

    def _connect(self) -> Connection:
        settings = self._settings
        if self._access == "read":
            settings = (*settings, "default_transaction_read_only=on")
        parameters = self.address.connection_parameters(*settings)
        session = Connection.connect(
            **parameters, autocommit=True, cursor_factory=Cursor, prepare_threshold=self._threshold
        )
        session.text = self.text
        session.statements = Pipeline(session, prepares=self._prepares)
        self._pid = session.info.backend_pid
        return session

    @property
    def _threshold(self) -> int | None:
        """After how many uses psycopg prepares a statement of the user's; None for never."""
        return 5 if self._prepares else None

    def _connect_reader(self) -> psycopg.Connection[Any]:
        return self._connect_plain(*READING, "default_transaction_read_only=on")

    def _connect_pulse(self) -> psycopg.Connection[Any]:
        return self._connect_plain(*PLANNING)

    def _connect_plain(self, *settings: str) -> psycopg.Connection[Any]:
        parameters = self.address.connection_parameters(*settings)
        return psycopg.connect(**parameters, autocommit=True, prepare_threshold=None)

    def _is_own(self, pid: int) -> bool:
        return pid == self._pid

    def _drop_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.end_session()

    def _open_session(self) -> Connection:
        """The engine's connection; a new one if the last was lost.

        Raises:
            StoreError: it cannot connect, or the last commit is not known to have ended.
        """
        if self._pool is None:
            raise NotOpen(f"{self.text}: the store is not open: use `async with manager:`")
        session = self._session
        if session is not None and session.info.transaction_status == TransactionStatus.IDLE:
            if not self._is_in_doubt:
                return session
        else:
            self._drop_session()
            session = None
        try:
            if session is None:
                session = self._session = self._connect()
            if self._is_in_doubt:
                self._wait_for_doubtful(session)
                self._is_in_doubt = False
        except psycopg.Error as error:
            self._drop_session()
            raise self._translate(error) or StoreError(f"{self.text}: {error}") from error
        return session

    def _wait_for_doubtful(self, session: Connection) -> None:
        """Wait until the last commit has ended, one way or the other: until then it holds the rows
        of our workers. Where there is none, its rows themselves are waited for. A commit that is
        one statement may not have reached the server yet: it names another session, and will write
        nothing."""
        workers = [] if self._pulse is None else list(self._pulse.workers)
        which = "perdure_workers WHERE id = ANY($1::text[])"
        session.statements.queue(f"SELECT 1 FROM {which} FOR UPDATE", (workers,))
        raising = which.replace(" WHERE", " SET session = session + 1 WHERE")
        rows = session.statements.ask(f"UPDATE {raising} RETURNING id, session", (workers,))
        self._sessions.update(rows)

    def has_committed(self, mark: Mark | None) -> bool:
        """Whether a transaction whose answer was lost is known to be stored.

        The server may be away for a moment, and a transaction end only when its server process has
        noticed: so it is asked more than once. False if it was not stored, or cannot be found.
        """
        if mark is None:
            return False
        for pause in (*CERTAIN_PAUSES, 0):
            try:
                row = self._open_session().statements.ask(_FIND_MARK, mark).fetchone()
            except (StoreError, psycopg.Error):
                row = None
            if row is not None and row[0] != "in progress":
                return bool(row[0] == "committed")
            self._pause(pause)
        return False

    def tell_news(self) -> None:
        """Notify others of what was committed; a hint, which may fail."""
        with contextlib.suppress(StoreError, psycopg.Error):
            self._open_session().statements.ask(f"NOTIFY {CHANNEL}")

    def _translate(self, error: BaseException) -> StoreError | None:
        return translate_own(error, self.text)

    # --- transactions and reads

    def transaction(self) -> AbstractContextManager[Transaction]:
        """See `base.Store.transaction`."""
        return _OpenTransaction(self)

    def write_alone(
        self, write: StateWrite, steps: Sequence[StepWrite], *, fence: WorkerId
    ) -> bool:
        """See `base.Store.write_alone`. One statement, for what there is one for."""
        connection = self._open_session()
        session, lease = self._sessions.get(fence, 0), self.address.lease
        statement = alone.statement(write, steps, fence, session=session, lease=lease)
        if statement is None:
            return in_transaction(self, write, steps, fence)
        return self._run_alone(connection, statement)

    def _run_alone(self, connection: Connection, statement: Statement) -> bool:
        try:
            return connection.statements.ask(*statement).count == 1
        except BaseException as error:
            self._is_in_doubt = connection.info.transaction_status != TransactionStatus.IDLE
            trouble = self._translate(error)
            if trouble is not None:
                raise trouble from error
            raise

    def reader(self) -> Reader:
        """See `base.Store.reader`."""
        pool = self._pool
        if pool is None:
            raise NotOpen(f"{self.text}: the store is not open: use `async with manager:`")
        if self._is_in_doubt:
            # Whatever is read now may be from before a commit that is not over.
            self._open_session()
        return PostgresReader(pool.execute, pool.at_once)

    def guest(self, connection: psycopg.Connection[Any], *, max_parallelism: int | None) -> Guest:
        """The engine's side of a transaction that the user opened on this database; the store need
        not be open. See `guest.open_guest`, also for what it raises.

        Args:
            max_parallelism: initial value of the setting, if the tables are created.
        """
        return open_guest(connection, self.address, max_parallelism, self._schema)

    # --- other processes

    def has_changed(self) -> bool:
        """See `base.Store.has_changed`: a flag that a listening thread sets."""
        return self._pulse is not None and self._pulse.take_news()

    @property
    def poll_seconds(self) -> float:
        """See `base.Store.poll_seconds`. Long, because it tells by itself; short, where it has told
        already and was not asked."""
        return ASK_SECONDS if self._pulse is not None and self._pulse.has_news else IDLE_SECONDS

    def call_on_change(self, wake: Callable[[], None]) -> None:
        """See `base.Store.call_on_change`."""
        self._wake = wake

    def hold_worker(self, worker_id: str) -> None:
        """See `base.Store.hold_worker`. It counts from the moment at which it is added."""
        assert self._pulse is not None
        self._pulse.keep_alive(worker_id)

    def release_worker(self, worker_id: str) -> None:
        """See `base.Store.release_worker`. If that cannot be told, its lease runs out."""
        if self._pulse is None:
            return
        self._pulse.let_go(worker_id)
        self._sessions.pop(worker_id, None)
        sql = "UPDATE perdure_workers SET lease_until = '-infinity' WHERE id = $1"
        with contextlib.suppress(StoreError, psycopg.Error):
            self._open_session().statements.ask(sql, (worker_id,))

    def dead_workers(self, worker_ids: Collection[str]) -> list[str]:
        """See `base.Store.dead_workers`. One that is in a transaction lives: its row is locked."""
        # In ours the rows stay locked until it ends.
        if not worker_ids:
            return []
        sql = (
            "SELECT id FROM perdure_workers"
            " WHERE id = ANY($1::text[]) AND lease_until < clock_timestamp()"
            " ORDER BY id FOR UPDATE SKIP LOCKED"
        )
        session = self._session
        if session is None or not (session.in_transaction or session.statements.begins):
            session = self._open_session()
        try:
            return [row[0] for row in session.statements.ask(sql, (list(worker_ids),))]
        except psycopg.Error as error:
            raise self._translate(error) or error from error

    def is_poisoned(self, error: BaseException) -> bool:
        """See `base.Store.is_poisoned`: a deferred constraint of the user's, or a deferred trigger
        that raises."""
        return isinstance(error, IntegrityError | RaiseException)


class _OpenTransaction:
    """Begin, then commit or roll back."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store

    def __enter__(self) -> Transaction:
        store = self._store
        self._session = session = store._open_session()
        session.begin()
        self._transaction = EngineTransaction(session, store._check_version, store.address.lease)
        return self._transaction

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None:
            try:
                self._commit()
            except BaseException as failure:
                self._undo(failure)
                raise
        else:
            self._undo(error)

    def _commit(self) -> None:
        session, statements = self._session, self._session.statements
        if session.trouble is not None:
            raise session.trouble
        if statements.is_only_begun:
            statements.clear()  # nothing was done
            return
        if statements.has_checks:
            self._transaction.flush()
        if session.info.transaction_status == TransactionStatus.IDLE and not statements.begins:
            raise TransactionLost(None)
        if self._transaction.has_run_user_code:
            self._transaction.renew()
        statements.queue("COMMIT", (), _check_commit)
        is_news = self._transaction.is_news
        if is_news:
            # A hint: should it fail, the commit has not. After it, as a transaction of its own: one
            # that notifies and writes would keep all others that do so waiting for its disk.
            statements.queue(f"NOTIFY {CHANNEL}")
        try:
            statements.run(last_may_fail=is_news)
        except psycopg.Error as error:
            self._store._is_in_doubt = session.broken
            if not (session.broken and self._store.has_committed(self._transaction.mark)):
                raise
            logger.warning(
                "%s: the answer to a commit was lost, but it is stored: %s", self._store.text, error
            )
            if is_news:
                self._store.tell_news()

    def _undo(self, error: BaseException) -> None:
        """Roll back; raise what the error means for the store, if it means something."""
        session = self._session
        session.statements.clear()
        status = session.info.transaction_status
        try:
            if status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
                session.statements.ask("ROLLBACK")
            elif status != TransactionStatus.IDLE:
                self._store._drop_session()
        except psycopg.Error:
            self._store._drop_session()
        trouble = self._transaction.translate(error)
        if trouble is not None:
            raise trouble from error


def _check_commit(rows: Rows) -> None:
    # A transaction that has failed is rolled back by COMMIT, which is no error.
    if rows.tag != b"COMMIT":
        raise TransactionLost(None)


class EngineTransaction(PostgresTransaction):
    """A transaction on the engine's connection, in which user code may run.

    Attributes:
        has_run_user_code: so it may have taken longer than a lease.
        mark: by what it can be found again, if it was asked to be certain.
    """

    has_run_user_code = False
    mark: Mark | None = None

    def __init__(
        self, session: Connection, check_version: Callable[[object], None], lease: float
    ) -> None:
        super().__init__(session.statements, check_version, lease=lease, text=session.text)
        self._session = session

    def be_certain(self) -> None:
        """See `base.Transaction.be_certain`."""
        if self._session.info.server_version >= MARKS_SINCE:
            self._later((_MARK, ()), self._note_mark)

    def _note_mark(self, rows: Rows) -> None:
        self.mark = rows.fetchone()

    def flush(self) -> None:
        """Send what is queued."""
        self._run()

    @property
    def db(self) -> Connection:
        """The connection that user code gets."""
        return self._session

    def run_user_code(self, fn: Callable[[], T], *, read_only: bool) -> T:
        """See `base.Transaction.run_user_code`."""
        epochs = self._epochs.copy()
        self.has_run_user_code = True
        try:
            return self._session.run_user_code(fn, read_only=read_only)
        except BaseException:
            self._epochs = epochs  # locks that were taken since are given up
            raise

    def run_engine_code(self, fn: Callable[[], T]) -> T:
        """See `base.Transaction.run_engine_code`."""

        def run() -> T:
            try:
                result = fn()
            except (StoreError, psycopg.Error):
                raise
            except BaseException:
                self.flush()  # before anything of the user's: in the order in which it was done
                raise
            self.flush()
            return result

        return self._session.run_engine_code(run)

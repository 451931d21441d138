"""A user's own transaction on PostgreSQL: see `perdure.store.guest`.

What does not belong here: what is the same on SQLite. Other processes are told at the user's
commit, by a notification that is part of his transaction.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus

from perdure.errors import ConnectionMisuse

from ..guest import VERB, UserTransaction, ended, engines_own
from ..versions import Schema
from .address import Address
from .connection import Connection
from .pipeline import Pipeline
from .pulse import CHANNEL
from .schema import SCHEMA, check_encoding, create_tables, stored_version
from .writes import PostgresTransaction

T = TypeVar("T")


class Guest(UserTransaction, PostgresTransaction):
    """The engine's side of the user's transaction."""

    def __init__(
        self, connection: psycopg.Connection[Any], address: Address, schema: Schema = SCHEMA
    ) -> None:
        super().__init__(
            Pipeline(connection, prepares=False),
            functools.partial(schema.check, where=address.text),
            lease=address.lease,
            text=address.text,
        )
        self._guest = connection

    @property
    def db(self) -> Any:
        """The user's own connection."""
        return self._guest

    def check_open(self) -> None:
        """Raise if the user's transaction has ended, or cannot be gone on with.

        Raises:
            ConnectionMisuse
        """
        status = self._guest.info.transaction_status
        if status == TransactionStatus.INERROR:
            raise ConnectionMisuse(
                "the transaction that manager.over() was given has failed before: roll it back"
            )
        if status != TransactionStatus.INTRANS:
            raise ended()
        if self._guest.pgconn.pipeline_status != PipelineStatus.OFF:
            raise ConnectionMisuse(
                "the connection that manager.over() was given is in pipeline mode: leave it before"
            )

    @property
    def is_open(self) -> bool:
        """See `guest.UserTransaction`: also one that has failed is not ended yet."""
        return self._guest.info.transaction_status != TransactionStatus.IDLE

    def run_engine_code(self, fn: Callable[[], T]) -> T:
        """Run a verb of the context: all of it is done, or, if it raises, nothing.

        Raises:
            StoreError: the database is in trouble.
        """
        self.check_open()
        with self.savepoint(VERB):
            # The user may commit after any verb, and lock no row of ours for longer.
            self._epochs.clear()
            self.is_news = False
            result = fn()
            if self.is_news:
                self._later((f"NOTIFY {CHANNEL}", ()))
            return result

    @contextlib.contextmanager
    def savepoint(self, name: str) -> Iterator[None]:
        """See `guest.UserTransaction`."""
        epochs = self._epochs.copy()
        self._ask(f"SAVEPOINT {name}")
        try:
            yield
            self._later((f"RELEASE SAVEPOINT {name}", ()))
            self._run()
            self.check_open()
        except BaseException as error:
            self._epochs = epochs
            self._pipeline.clear()
            with contextlib.suppress(psycopg.Error):
                self._pipeline.queue(f"ROLLBACK TO SAVEPOINT {name}")
                self._pipeline.queue(f"RELEASE SAVEPOINT {name}")
                self._pipeline.run()
            trouble = self.translate(error)
            if trouble is not None:
                raise trouble from error
            raise


def open_guest(
    connection: psycopg.Connection[Any],
    address: Address,
    max_parallelism: int | None,
    schema: Schema = SCHEMA,
) -> Guest:
    """The engine's side of a transaction that is open on `connection`.

    If none is open, and psycopg would open one at the first statement (its default), it is opened
    here. Where there are no tables they are made, in the same transaction.

    Args:
        address: of the database that it must be a connection to.
        max_parallelism: initial value of the setting, if the tables are made.
        schema: the tables that this code knows.

    Raises:
        TypeError: it is no psycopg connection.
        ConnectionMisuse: it is the engine's, or another database's, or no transaction is open.
        StoreError: the database is in trouble, or is not ours to use.
    """
    if not isinstance(connection, psycopg.Connection):
        raise TypeError(f"over({connection!r}): give a psycopg.Connection")
    if isinstance(connection, Connection):
        raise engines_own()
    if connection.closed:
        raise ConnectionMisuse(
            "over(connection): the connection is closed: keep it open until you have committed"
        )
    _check_database(connection, address)
    check_encoding(connection, address.text)
    if connection.info.transaction_status == TransactionStatus.IDLE:
        if connection.autocommit:
            raise ConnectionMisuse(
                "over(connection): no transaction is open: use `with connection.transaction():`"
            )
        Pipeline(connection, prepares=False).ask("BEGIN")
    guest = Guest(connection, address, schema)
    guest.check_open()
    with guest.savepoint(VERB):
        version = stored_version(guest._ask, address.text)
        if version is None:
            create_tables(guest._ask, max_parallelism, address.text, schema)
        else:
            schema.check(version, address.text)
    return guest


def _check_database(connection: psycopg.Connection[Any], address: Address) -> None:
    info = connection.info
    wanted = address.parameters
    for name, found in (("dbname", info.dbname), ("host", info.host), ("port", str(info.port))):
        if name not in wanted:
            continue
        # Of hosts and ports there may be several; an empty one is libpq's default.
        allowed = [wanted[name]] if name == "dbname" else str(wanted[name]).split(",")
        if found not in allowed and "" not in allowed:
            raise ConnectionMisuse(
                f"over(connection): it is a connection to {info.dbname!r} on {info.host}:"
                f"{info.port}, and the manager's store is {address.text}: open it on the same"
            )

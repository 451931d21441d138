"""What PostgreSQL's errors mean: trouble of the database's, or a fault of whoever wrote the SQL.

What does not belong here: what follows from it.
"""

from __future__ import annotations

import psycopg
from psycopg import errors

from perdure.errors import (
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreNotFound,
    StoreReadOnly,
    StoreUnavailable,
)

_AGAIN = "another transaction was in the way; it is tried again"
_AWAY = "look after the server and the network; it is tried again"

#: By SQLSTATE, or its first two letters, which are its class.
_STORE_ERRORS: dict[str, tuple[type[StoreError], str]] = {
    "40001": (StoreBusy, _AGAIN),
    "40P01": (StoreBusy, _AGAIN),
    "55P03": (StoreBusy, "end the transaction that holds the lock; it is tried again"),
    "25006": (StoreReadOnly, "give the address of the primary, to a user who may write"),
    "25P03": (StoreError, "a transaction stood still for most of the lease; it is tried again"),
    "25P04": (StoreError, "raise transaction_timeout; it is tried again"),
    "28": (StoreError, "check the user, the password and pg_hba.conf"),
    "3D000": (StoreNotFound, "create the database: CREATE DATABASE"),
    "3F000": (StoreError, "create the schema that search_path names"),
    "42501": (StoreError, "grant the user the right to create and to use perdure's tables"),
    "53100": (StoreFull, "free some space on the server's disk"),
    "53300": (StoreError, "raise max_connections, or use pgbouncer for clients"),
    "53": (StoreError, "the server lacks resources; it is tried again"),
    "57P": (StoreUnavailable, _AWAY),
    "58": (StoreError, "look after the server's disk"),
    "08": (StoreUnavailable, _AWAY),
    "XX001": (StoreCorrupt, "restore the database from a backup"),
    "XX002": (StoreCorrupt, "rebuild the index: REINDEX"),
}

_OWN = "nobody's code is to blame; it is tried again"

#: Of the engine's own statements: they are right, so these are the server's, or its keepers': a
#: statement was canceled, or took longer than `statement_timeout` (57014), some limit was met, a
#: table is gone while it is restored.
_OWN_CLASSES = frozenset({"0A", "26", "40", "53", "54", "55", "57", "58", "F0", "XX"})
_OWN_STATES = frozenset({"42P01", "42703"})


#: What the server says when it lets nobody in: libpq passes on its words alone. In another language
#: than English it is the trouble of any server that is away.
_CONNECTING: tuple[tuple[str, type[StoreError], str], ...] = (
    ('" does not exist', StoreNotFound, "create the database, or the user"),
    ("authentication failed", StoreError, "check the user, the password and pg_hba.conf"),
    ("no pg_hba.conf entry", StoreError, "let this host in: pg_hba.conf"),
    ("no password supplied", StoreError, "give the password in the address, or in PGPASSFILE"),
    (
        "unsupported startup parameter: options",
        StoreError,
        "this is pgbouncer: give clients pgbouncer=true in the address, workers the server's own",
    ),
    ("could not translate host name", StoreError, "check the host's name in the address"),
)


def translate(error: BaseException, text: str) -> StoreError | None:
    """The store error that stands for an error of PostgreSQL's, or None if the SQL is to blame.

    Args:
        error: any exception.
        text: the address, for the message.
    """
    if not isinstance(error, psycopg.Error):
        return None
    state = error.sqlstate
    if state is None:
        # libpq's own: the connection, but for the few that say that they are misused.
        if isinstance(error, errors.OperationalError):
            line = _line(error)
            for said, cls, remedy in _CONNECTING:
                if said in line:
                    return cls(f"{text}: {line}: {remedy}")
            return StoreUnavailable(f"{text}: {_line(error)}: {_AWAY}")
        return None
    for key in (state, state[:3], state[:2]):
        if key in _STORE_ERRORS:
            cls, remedy = _STORE_ERRORS[key]
            return cls(f"{text}: {_line(error)} ({state}): {remedy}")
    return None


def translate_own(error: BaseException, text: str) -> StoreError | None:
    """As `translate`, for a statement of the engine's own: there a row that exists already was put
    by another process meanwhile, and what somebody has canceled is tried again."""
    if isinstance(error, errors.UniqueViolation):
        if (error.diag.table_name or "").startswith("perdure_"):
            return StoreBusy(f"{text}: another process has just put the same: {_AGAIN}")
    trouble = translate(error, text)
    if trouble is None and isinstance(error, psycopg.Error) and error.sqlstate is not None:
        state = error.sqlstate
        if state in _OWN_STATES or state[:2] in _OWN_CLASSES:
            return StoreError(f"{text}: {_line(error)} ({state}): {_OWN}")
    return trouble


def is_lost_transaction(error: BaseException) -> bool:
    """Whether the server has ended the transaction because it took too long."""
    return isinstance(error, psycopg.Error) and error.sqlstate in ("25P03", "25P04")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())

"""PostgreSQL's errors: whose trouble they are."""

from __future__ import annotations

import re

import psycopg
import pytest
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
from perdure.store.postgres.errors import is_lost_transaction, translate, translate_own


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.SerializationFailure, StoreBusy),
        (errors.DeadlockDetected, StoreBusy),
        (errors.LockNotAvailable, StoreBusy),
        (errors.DiskFull, StoreFull),
        (errors.TooManyConnections, StoreError),
        (errors.ReadOnlySqlTransaction, StoreReadOnly),
        (errors.AdminShutdown, StoreUnavailable),
        (errors.CannotConnectNow, StoreUnavailable),
        (errors.IoError, StoreError),
        (errors.InvalidPassword, StoreError),
        (errors.InvalidCatalogName, StoreNotFound),
        (errors.DataCorrupted, StoreCorrupt),
        (errors.IdleInTransactionSessionTimeout, StoreError),
        (psycopg.OperationalError, StoreUnavailable),
    ],
)
def test_trouble_of_the_store(error: type[psycopg.Error], expected: type[StoreError]) -> None:
    """It costs time, never a workflow; the error says where."""
    found = translate(error("what it says"), "postgresql:///app")
    assert type(found) is expected
    assert str(found).startswith("postgresql:///app: what it says")


@pytest.mark.parametrize(
    "error",
    [
        errors.UniqueViolation("x"),
        errors.SyntaxError("x"),
        errors.InFailedSqlTransaction("x"),
        psycopg.ProgrammingError("x"),
        psycopg.InterfaceError("x"),
        ValueError("x"),
    ],
)
def test_faults_of_whoever_wrote_the_sql(error: Exception) -> None:
    """Trying again would not help."""
    assert translate(error, "postgresql:///app") is None
    assert translate_own(error, "postgresql:///app") is None


@pytest.mark.parametrize(
    "error",
    [
        errors.QueryCanceled("x"),
        errors.ProgramLimitExceeded("x"),
        errors.InternalError_("x"),
        errors.UndefinedTable("x"),
    ],
)
def test_what_befalls_statements_of_our_own(error: psycopg.Error) -> None:
    """They are right, so it is the server's, or its keepers'; users' statements may be wrong."""
    assert type(translate_own(error, "postgresql:///app")) is StoreError
    assert translate(error, "postgresql:///app") is None


def test_a_transaction_that_took_too_long() -> None:
    """Told apart: what runs in it may be to blame."""
    assert is_lost_transaction(errors.IdleInTransactionSessionTimeout("x"))
    assert not is_lost_transaction(errors.AdminShutdown("x"))
    assert not is_lost_transaction(ValueError("25P03"))


def test_who_is_not_let_in_is_told_why(postgres_url: str) -> None:
    """Not that the server is away: a worker would wait for it."""
    for wrong, right, remedy in (
        ("/no_such_database?", "create the database", StoreNotFound),
        ("/postgres?user=nobody_here&", "create the database, or the user", StoreNotFound),
    ):
        address = re.sub(r"/\w+\?", wrong, postgres_url)
        with pytest.raises(psycopg.OperationalError) as caught:
            psycopg.connect(address)
        trouble = translate(caught.value, "x")
        assert type(trouble) is remedy
        assert right in str(trouble)


def test_a_pooler_without_its_option_is_told() -> None:
    """In pgbouncer's words: it refuses settings of a session. No worker waits for that to end."""
    said = "FATAL:  unsupported startup parameter: options"
    trouble = translate(psycopg.OperationalError(f"connection failed: {said}"), "x")
    assert type(trouble) is StoreError
    assert "give clients pgbouncer=true in the address" in str(trouble)

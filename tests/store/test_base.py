"""The contract of stores: what its plain values and errors say. (Its promises: perdure_sim.)"""

from __future__ import annotations

import pytest

from perdure.errors import PerdureError, StoreError, StoreFull
from perdure.store.base import (
    Fenced,
    InboxRow,
    Store,
    TransactionLost,
    UserRaisedStoreError,
    WorkflowFilter,
)
from perdure.store.sqlite import SqliteStore


@pytest.mark.parametrize(
    ("statement", "named"),
    [("INSERT OR ROLLBACK …", "'INSERT OR ROLLBACK …'"), (None, "a statement of the step")],
)
def test_a_lost_transaction_names_the_statement(statement: str | None, named: str) -> None:
    """The error says which statement did it, where that is known, and what to use instead."""
    error = TransactionLost(statement)
    assert error.statement == statement
    assert str(error).startswith(f"{named} ended or blocked the transaction")
    assert "raise an exception to undo a step" in str(error)


def test_fencing_is_no_error_of_users() -> None:
    """`except PerdureError` in user code does not swallow the order to start a new life."""
    assert not issubclass(Fenced, PerdureError)
    assert issubclass(TransactionLost, PerdureError)


def test_mail_is_for_the_owner_unless_it_says_otherwise() -> None:
    """A row without a worker is for whoever owns the workflow; before it is stored it has no id."""
    row = InboxRow(workflow_id="a", kind="event", body="1", accepted_at=1)
    assert (row.worker, row.number, row.row_id) == (None, None, 0)


def test_a_listing_is_bounded_by_default() -> None:
    """Nobody reads a whole table by leaving out an option."""
    assert WorkflowFilter() == WorkflowFilter(limit=100, is_ascending=True, after=None)


def test_the_sqlite_store_is_a_store() -> None:
    """The adapter has every member of the protocol (types: this assignment)."""
    store: Store = SqliteStore(":memory:")
    missing = [
        name for name in vars(Store) if not name.startswith("_") and not hasattr(store, name)
    ]
    assert missing == []


def test_a_store_error_of_the_users_is_no_store_error() -> None:
    """It shows the error that it stands for, and no handler of store trouble takes it for one."""
    error = UserRaisedStoreError(StoreFull("app.db: full"))
    assert str(error) == "StoreFull: app.db: full"
    assert isinstance(error, PerdureError)
    assert not isinstance(error, StoreError | TransactionLost)

"""The store in memory and the PostgreSQL store give the same answers to the same calls.

As test_stores_agree.py has it for SQLite. What is left out: numbers of sequences, which PostgreSQL
hands out with gaps, and reads and writes by them; and user code, which writes another SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from msgspec.structs import replace
from property_tests.store_calls import IDS
from property_tests.test_stores_agree import REFUSED, StoresMachine
from tests.postgres import Server

from perdure.errors import StoreBusy
from perdure.store.base import Reader, Transaction, WorkflowFilter
from perdure.store.postgres.store import EngineTransaction
from perdure_sim.stores.memory import MemoryDatabase, MemoryStore
from perdure_sim.stores.postgres import PostgresSchemas


class PostgresMachine(StoresMachine):
    """Calls at random, each to a PostgreSQL store and to one in memory."""

    schemas: PostgresSchemas

    def begin_database(self) -> None:
        """Both are empty."""
        self.disk = self.schemas()
        self.database = MemoryDatabase()

    def new_stores(self) -> tuple[Any, MemoryStore]:
        """The stores of one process."""
        stores = self.disk.open(), MemoryStore(self.database)
        for store in stores:
            store.open(max_parallelism=5)
            assert store.has_changed(), "a store that was just opened has seen nothing"
        return stores

    def end_database(self) -> None:
        """Nothing is left of it."""

    def answer(self, fn: Callable[[Transaction], Any], tx: Transaction) -> Any:
        """What a transaction answers, or that it refuses; what it has put off is done at once."""
        try:
            found = super().answer(fn, tx)
            if isinstance(tx, EngineTransaction):
                tx.flush()
        except (psycopg.IntegrityError, RuntimeError):
            return REFUSED
        except StoreBusy as error:
            # What is there already may be another process's, that was faster.
            if isinstance(error.__cause__, psycopg.IntegrityError):
                return REFUSED
            raise
        return found

    def settings_of(self, tx: Transaction, count: int) -> Any:
        """The settings."""
        return super().settings_of(tx, count)[-1]

    def list_workflows(self, reader: Reader, which: WorkflowFilter) -> Any:
        """Workflows from the first on, without their numbers."""
        return [state for _, state in reader.list_workflows(replace(which, after=None))]

    def inbox_of(self, reader: Reader, worker: str) -> Any:
        """A worker's mail, without its numbers."""
        return [replace(row, row_id=0) for row in reader.inbox_of(worker)]

    def delete_inbox(self) -> None:
        """No rule here: it takes numbers."""

    def claimable(self, reader: Reader, names: Collection[str], now: int, limit: int) -> Any:
        """What nobody owns and is due; PostgreSQL has no order among those that are equally so."""
        return sorted(reader.claimable(names, now, len(IDS)))

    def run_user_code(self) -> None:
        """No rule here."""


@pytest.fixture
def schemas() -> Iterator[PostgresSchemas]:
    with Server() as server:
        made = PostgresSchemas(server.create_database(), hears_all=True)
        yield made
        made.close()


def test_postgres_agrees_with_the_model(schemas: PostgresSchemas) -> None:
    """The same answers, and readers see the same."""
    machine = type("Machine", (PostgresMachine,), {"schemas": schemas})
    run_state_machine_as_test(machine, settings=settings(max_examples=15, stateful_step_count=30))

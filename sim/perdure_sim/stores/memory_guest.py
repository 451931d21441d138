"""The engine's side of a user's own transaction, on the store in memory.

What does not belong here: the transaction's beginning and end (`memory.MemoryDatabase.over`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from perdure.store.guest import VERB, ended

from .memory_transaction import NOT_OPEN, MemoryTransaction

T = TypeVar("T")


class MemoryGuest:
    """See `base.GuestTransaction`. Its other methods are those of the transaction."""

    def __init__(self, rows: MemoryTransaction) -> None:
        self._rows = rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rows, name)

    def check_open(self) -> None:
        """See `base.GuestTransaction.check_open`."""
        if self._rows.changes is NOT_OPEN:
            raise ended()

    def run_engine_code(self, fn: Callable[[], T]) -> T:
        """Run a verb of the context: all of it is done, or, if it raises, nothing."""
        self.check_open()
        rows = self._rows

        def whole() -> T:
            mark, execute = len(rows.changes), rows.db.engine_execute
            execute(f"SAVEPOINT {VERB}")
            try:
                return fn()
            except BaseException:
                execute(f"ROLLBACK TO {VERB}")
                rows.take_back_to(mark)
                raise
            finally:
                execute(f"RELEASE {VERB}")

        return rows.run_engine_code(whole)

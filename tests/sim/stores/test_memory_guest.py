"""A user's own transaction on the model store; in a world it is tested by test_transacting.py."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.errors import ConnectionMisuse
from perdure_sim.stores.memory import MemoryDatabase, MemoryStore


def test_a_guest_is_of_no_use_after_its_transaction() -> None:
    """As on SQLite: whoever kept it is told to ask anew."""
    database = MemoryDatabase()
    store = MemoryStore(database)
    store.open(max_parallelism=3)
    kept: list[Any] = []

    def body(guest: Any) -> None:
        guest.check_open()
        guest.run_engine_code(lambda: guest.set_max_parallelism(5))
        kept.append(guest)

    database.over(store, body, lambda: None)
    assert store.reader().config().max_parallelism == 5
    assert store.has_changed()  # news for the process itself, as every commit of another connection
    with pytest.raises(ConnectionMisuse, match="has ended: call"):
        kept[0].run_engine_code(lambda: None)
    store.close()
    database.close()

"""What the tests of the store in memory share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from perdure_sim.stores.memory import MemoryDatabase


@pytest.fixture
def database() -> Iterator[MemoryDatabase]:
    disk = MemoryDatabase()
    yield disk
    disk.close()

"""Fixtures of the runtime's tests: rigs that are closed when the test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.runtime.harness import FakeClock, Rig

from perdure.definitions import Definer


@pytest.fixture
def rigs(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    """Makes rigs that share one clock and, if there are several, one file."""
    made: list[Rig] = []
    clock = FakeClock()

    def make(definer: Definer, **options: object) -> Rig:
        rig = Rig(definer, tmp_path / "app.db", clock=clock, **options)  # type: ignore[arg-type]
        made.append(rig)
        return rig

    yield make
    for rig in made:
        rig.store.close()

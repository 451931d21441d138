"""A database of each kind, one after the other."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.store.places import Place


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty database of the test's own."""
    if request.param == "sqlite":
        return Place("sqlite", str(tmp_path / "app.db"))
    return Place("postgres", request.getfixturevalue("postgres_url"))

from __future__ import annotations

from pathlib import Path

import pytest
from tests.surface.app import App


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App(tmp_path / "app.db")

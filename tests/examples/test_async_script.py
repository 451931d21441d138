"""examples/async_script.py: killed in the middle of many things at once, and run again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from tests.examples.programs import kill_when, lines_of, run


@pytest.mark.chaos
def test_what_was_fetched_is_not_fetched_again(tmp_path: Path) -> None:
    """After a kill only those pages are fetched twice whose outcome had not been recorded: at
    most as many as run at once."""
    log = tmp_path / "fetched.log"
    kill_when(tmp_path, lambda: len(lines_of(log)) >= 10, "async_script.py")
    assert run(tmp_path, "async_script.py") == "40 pages, 27000 bytes\n"
    fetched = Counter(lines_of(log))
    assert len(fetched) == 40
    assert fetched.total() - len(fetched) <= 5

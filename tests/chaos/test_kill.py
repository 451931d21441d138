"""Workers are killed at random moments; nothing is lost, and nothing is repeated that must not be.

The short version: ``python -m tests.chaos.kill --rounds 200`` is the long one.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.chaos.databases import SqliteFile
from tests.chaos.kill import Chaos, run_rounds


def _report(faults: list[str]) -> None:
    assert faults == [], "\n" + "\n".join(faults[:40])


@pytest.mark.chaos
def test_a_killed_worker_loses_and_repeats_nothing(tmp_path: Path) -> None:
    """After ten kills all that was started has ended, once, with all its effects."""
    chaos = Chaos(SqliteFile(tmp_path / "chaos.db"), seed=1)
    _report(run_rounds(chaos, rounds=10))
    assert chaos.kills == 10
    assert chaos.effects.count() > 0


@pytest.mark.chaos
def test_one_of_two_workers_is_killed(tmp_path: Path) -> None:
    """The same with two workers on one database: the other one takes over while it works."""
    chaos = Chaos(SqliteFile(tmp_path / "chaos.db"), seed=2, workers=2)
    _report(run_rounds(chaos, rounds=6))
    assert chaos.kills == 6
    assert chaos.effects.count() > 0

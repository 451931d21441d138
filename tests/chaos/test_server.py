"""A PostgreSQL server and its four workers in trouble: nothing is lost, nothing is done twice.

The short version: ``python -m tests.chaos.server --rounds 60`` is the long one.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.chaos.server import LIMIT, TROUBLES, ServerChaos, run_rounds
from tests.postgres import DURABLE, Server


@pytest.mark.chaos
def test_nothing_is_lost_whatever_befalls_the_server(tmp_path: Path) -> None:
    """Each kind of trouble once, under load; in the end all that was started has ended."""
    with Server(**DURABLE) as server:
        chaos = ServerChaos(server, tmp_path, seed=1)
        faults = run_rounds(chaos, len(set(TROUBLES)))
    assert faults == [], "\n" + "\n".join(faults[:40])
    assert set(chaos.troubles.values()) == {1}
    assert 1 < chaos.most_permits <= LIMIT
    assert chaos.effects.count() > 0

"""One workflow's steps run in several processes: each of them once, also when one is killed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from tests.chaos.checker import Checker, Known
from tests.chaos.databases import SqliteFile, value
from tests.chaos.ledger import Ledger
from tests.chaos.processes import Effects, Worker, wait_until

#: Few at a time, so that there is always something to take.
LIMIT = 6
ACTIONS = 90
MS = 30

LIVING = "SELECT count(*) FROM perdure_workers"
LEFT = "SELECT count(*) FROM perdure_workflows WHERE status = 'in_progress'"


@pytest.mark.chaos
@pytest.mark.parametrize("kills", [False, True])
def test_a_fan_out_is_run_by_three_processes(tmp_path: Path, kills: bool) -> None:
    """More than one of them runs steps; no step runs twice; all end, the killed ones as lost."""
    database, effects = SqliteFile(tmp_path / "chaos.db"), Effects(tmp_path / "effects.jsonl")
    database.create_tables()
    ledger = Ledger(database.address, effects.path)
    manager = ledger.manager.sync
    manager.update_config(max_parallelism=LIMIT)

    with (
        Worker(database, effects.path) as one,
        Worker(database, effects.path) as two,
        Worker(database, effects.path) as three,
    ):

        def look(sql: str) -> int:
            count: int = value(database, sql)
            return count

        assert wait_until(lambda: look(LIVING) == 3), one.told()
        manager.start(ledger.steady(ACTIONS, MS), id="wide")
        if kills:
            assert wait_until(lambda: effects.count() > ACTIONS), two.told()
            two.kill()
        assert wait_until(lambda: look(LEFT) == 0), three.told()
    manager.close()

    started = [effect for effect in effects.read() if effect.phase == "start"]
    assert set(Counter(effect.number for effect in started).values()) == {1}
    pids = {effect.pid for effect in started}
    assert pids <= {one.pid, two.pid, three.pid}
    assert len(pids) > 1
    if not kills:
        assert len(started) == ACTIONS
    assert Checker(database, effects, Known()).faults() == []

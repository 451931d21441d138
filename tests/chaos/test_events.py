"""Events from another process reach their workflows at whatever moment they are sent."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.chaos.checker import Checker, Known
from tests.chaos.databases import SqliteFile
from tests.chaos.ledger import Ledger, go
from tests.chaos.processes import Effects, Worker

WORKFLOWS = 120
PLAN = ["event", "nap", "event", "mutation", "event"]


@pytest.mark.chaos
def test_no_event_is_missed_by_a_workflow_that_goes_to_sleep(tmp_path: Path) -> None:
    """A workflow that is put away while an event arrives is woken by it: each one ends.

    The worker puts a workflow away as soon as it waits for an event, and the client sends just
    then; nothing else would ever wake it.
    """
    database, effects = SqliteFile(tmp_path / "chaos.db"), Effects(tmp_path / "effects.jsonl")
    database.create_tables()
    ledger = Ledger(database.address, effects.path)
    manager = ledger.manager.sync
    known = Known()
    with Worker(database, effects.path):
        for number in range(WORKFLOWS):
            id_ = f"w{number}"
            manager.start(ledger.mixed(PLAN, 1), id=id_, on_complete=ledger.ended, context=id_)
            known.plans[id_] = PLAN
            for value in range(3):
                manager.send_event(go, workflow_id=id_, value=value)
            known.sent[id_] = 3
    with Worker(database, effects.path, "--until-idle") as last:
        assert last.wait() == 0, last.told()
    manager.close()
    assert Checker(database, effects, known).faults() == []

"""A workflow that kills every worker which takes it up does not hold up the others for ever."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from tests.chaos.checker import Checker, Known
from tests.chaos.databases import SqliteFile
from tests.chaos.ledger import Ledger
from tests.chaos.processes import Effects, Worker

from perdure import InProgress, WorkflowCanceled

#: Deaths after which the engine takes a workflow up no more.
DEATHS = 5


@pytest.mark.chaos
def test_a_workflow_that_kills_its_workers_is_blocked(tmp_path: Path) -> None:
    """After five dead workers it is left alone and says so; the others end; it can be canceled."""
    database, effects = SqliteFile(tmp_path / "chaos.db"), tmp_path / "effects.jsonl"
    database.create_tables()
    ledger = Ledger(database.address, effects)
    manager = ledger.manager.sync
    for number in range(4):
        manager.start(ledger.steady(3, 5), id=f"w{number}")
    manager.start(ledger.poison(), id="poison")

    codes: list[int] = []
    while codes[-1:] != [0] and len(codes) < DEATHS + 2:
        with Worker(database, effects, "--until-idle") as worker:
            codes.append(worker.wait())
    assert codes == [-signal.SIGKILL] * DEATHS + [0], worker.told()

    assert [manager.status(f"w{number}").kind for number in range(4)] == ["success"] * 4
    status = manager.status("poison")
    assert isinstance(status, InProgress)
    assert status.blocked is not None
    assert "died 5 times" in status.blocked.message

    manager.cancel("poison")
    with pytest.raises(WorkflowCanceled):
        manager.result("poison")
    manager.close()
    assert Checker(database, Effects(effects), Known()).faults() == []

"""The judge of the chaos can condemn: each fault that it looks for is planted once, and found."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.chaos.checker import Checker, Known
from tests.chaos.databases import SqliteFile
from tests.chaos.ledger import Ledger, go
from tests.chaos.processes import Effects

PLAN = ["mutation", "broken", "once", "flaky", "event", "event", "spawn", "nap", "gather"]
FIRST_ONCE = "SELECT number FROM perdure_steps WHERE workflow_id = 'w0' AND function = 'once'"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run without chaos; not to be changed."""
    folder = tmp_path_factory.mktemp("sound")
    SqliteFile(folder / "chaos.db").create_tables()
    ledger = Ledger(str(folder / "chaos.db"), folder / "effects.jsonl")
    manager = ledger.manager.sync
    with manager:
        manager.start(ledger.mixed(PLAN, 3), id="w0", on_complete=ledger.ended, context="of w0")
        for value in (0, 1):
            manager.send_event(go, workflow_id="w0", value=value)
        manager.result("w0", timeout=60)
        manager.result("w0#6/spawned", timeout=60)
    return folder


def _judge(folder: Path) -> list[str]:
    known = Known(plans={"w0": PLAN}, sent={"w0": 2})
    return Checker(
        SqliteFile(folder / "chaos.db"), Effects(folder / "effects.jsonl"), known
    ).faults()


def test_a_sound_run_has_no_fault(sound: Path) -> None:
    """What ran undisturbed is not condemned: the trace of every operation is understood."""
    assert _judge(sound) == []


@pytest.mark.parametrize(
    ("damage", "verdict"),
    [
        ("DELETE FROM perdure_workflows WHERE id = 'w0'", "it is gone"),
        ("UPDATE perdure_workflows SET status = 'in_progress', ended_at = NULL, value = NULL",
         "never ended"),
        ("UPDATE perdure_workflows SET status = 'canceled', value = NULL WHERE id = 'w0'",
         "ended as canceled, not as success"),
        ("UPDATE perdure_workflows SET value = replace(value, 'go 1', 'go 0') WHERE id = 'w0'",
         "events received as"),
        ("UPDATE perdure_workflows SET value = replace(value, 'ValueError', 'ok')",
         "broken came to 'ok'"),
        ("UPDATE perdure_workflows SET next_number = next_number + 1", "next number"),
        ("UPDATE perdure_workflows SET position = position + 1", "last one"),
        ("UPDATE perdure_ticks SET position = position + 90", "positions"),
        ("INSERT INTO ledger_writes SELECT * FROM ledger_writes LIMIT 1", "has written 2 rows"),
        ("DELETE FROM ledger_writes WHERE place = 'w0#0'", "has written 0 rows"),
        ("INSERT INTO ledger_writes VALUES ('w0', 'w0#1')", "write_and_fail, failed) has written"),
        ("INSERT INTO ledger_writes VALUES ('w9', 'w9#1')", "written by no step"),
        ("DELETE FROM perdure_workflows WHERE id LIKE '%spawned'", "its rows disagree"),
        ("UPDATE perdure_steps SET attempt = 2 WHERE function = 'once'", "2 attempts are recorded"),
        ("UPDATE perdure_steps SET attempt = 5 WHERE function = 'flaky'", "5 attempts"),
        ("UPDATE perdure_steps SET attempt = 0 WHERE function = 'once'", "only 0 are recorded"),
        ("INSERT INTO ledger_ends SELECT * FROM ledger_ends LIMIT 1", "on_complete ran 2 times"),
        ("DELETE FROM ledger_ends WHERE workflow_id = 'w0'", "on_complete ran 0 times"),
        ("UPDATE ledger_ends SET kind = 'failed'", "on_complete was told"),
        ("UPDATE ledger_ends SET context = 'x'", "got the context x"),
        ("UPDATE perdure_events SET consumed_by = 0 WHERE value = '1'", "events consumed by"),
        ("UPDATE perdure_events SET consumed_by = NULL WHERE value = '0'", "passed over"),
        ("DELETE FROM perdure_events WHERE value = '0'", "2 events sent"),
        ("INSERT INTO perdure_inbox VALUES (1, 'w0', NULL, 'event', NULL, '{}', 0)",
         "left in the inbox"),
        ("DELETE FROM perdure_steps WHERE workflow_id = 'w0' AND number = 3", "next number"),
    ],
)  # fmt: skip
def test_damage_is_found(sound: Path, tmp_path: Path, damage: str, verdict: str) -> None:
    """One damaged row, of whatever table, gives a fault that names it."""
    folder = shutil.copytree(sound, tmp_path / "damaged")
    with closing(sqlite3.connect(folder / "chaos.db")) as connection:
        changed = connection.execute(damage).rowcount
        connection.commit()
    assert changed > 0
    faults = _judge(folder)
    assert any(verdict in fault for fault in faults), faults


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"attempt": 1}, "attempt 1 ran"),
        ({"attempt": 2}, "attempt 2 ran, and only 1"),
        ({"number": 99}, "not in the journal"),
        ({"key": "another"}, "several keys"),
        ({"workflow": "w0#6/spawned", "number": 1}, "the idempotency key of several steps"),
    ],
)
def test_an_effect_too_many_is_found(
    sound: Path, tmp_path: Path, change: dict[str, object], verdict: str
) -> None:
    """An action that has run once more, or in another place, is a fault."""
    folder = shutil.copytree(sound, tmp_path / "damaged")
    path = folder / "effects.jsonl"
    with closing(sqlite3.connect(folder / "chaos.db")) as connection:
        number = connection.execute(FIRST_ONCE).fetchone()[0]
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    once = next(line for line in lines if (line["workflow"], line["number"]) == ("w0", number))
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**once, **change}) + "\n")
    faults = _judge(folder)
    assert any(verdict in fault for fault in faults), faults


def test_an_effect_too_few_is_found(sound: Path, tmp_path: Path) -> None:
    """A step that is recorded as done, without a trace of its end, is a fault."""
    folder = shutil.copytree(sound, tmp_path / "damaged")
    path = folder / "effects.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    last_end = max(i for i, line in enumerate(lines) if '"phase": "end"' in line)
    path.write_text("".join(lines[:last_end] + lines[last_end + 1 :]), encoding="utf-8")
    assert any("has not ended" in fault for fault in _judge(folder))

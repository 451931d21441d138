"""`max_parallelism` bounds all workers together, also when one of them is killed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from tests.chaos.checker import Checker, Known
from tests.chaos.databases import SqliteFile, value
from tests.chaos.ledger import Ledger
from tests.chaos.processes import Effect, Effects, Worker, wait_until

LIMIT = 5
ACTIONS = 30
#: Workflows that each worker gets.
WORKFLOWS = 4

RECORDED = "SELECT count(*) FROM perdure_steps WHERE kind = 'action' AND state = 'started'"
ASKED = "SELECT count(*) FROM perdure_steps"
OWNERS = "SELECT count(DISTINCT owner) FROM perdure_workflows"
LEFT = "SELECT count(*) FROM perdure_workflows WHERE status = 'in_progress'"


def most_at_once(effects: list[Effect], killed: set[int]) -> int:
    """The largest number of attempts whose code ran at the same time.

    `killed` are the processes that were: what they left open ended with them.
    """
    changes = []
    open_attempts = {}
    for effect in effects:
        attempt = (effect.workflow, effect.number, effect.attempt)
        changes.append((effect.at, 1 if effect.phase == "start" else -1))
        if effect.phase == "start":
            open_attempts[attempt] = effect
        else:
            del open_attempts[attempt]
    # The moment of a kill is not known: the last line of the process is the latest sure one.
    last = {effect.pid: effect.at for effect in effects}
    for effect in open_attempts.values():
        assert effect.pid in killed, f"an attempt without an end: {effect}"
        changes.append((last[effect.pid], -1))
    running = most = 0
    for _, change in sorted(changes):
        running += change
        most = max(most, running)
    return most


@pytest.mark.chaos
def test_two_workers_keep_one_limit(tmp_path: Path) -> None:
    """At no moment do more attempts run, or stand recorded as started, than the limit allows."""
    database, effects = SqliteFile(tmp_path / "chaos.db"), Effects(tmp_path / "effects.jsonl")
    database.create_tables()
    ledger = Ledger(database.address, effects.path)
    manager = ledger.manager.sync
    manager.update_config(max_parallelism=0)  # until both workers have workflows
    recorded = []

    def look(sql: str) -> int:
        count: int = value(database, sql)
        return count

    def is_done() -> bool:
        recorded.append(look(RECORDED))
        return look(LEFT) == 0

    def give(workflows: range) -> bool:
        for number in workflows:
            manager.start(ledger.steady(ACTIONS, 8), id=f"w{number}")
        return wait_until(lambda: look(ASKED) == workflows.stop * ACTIONS)

    with Worker(database, effects.path) as victim:
        assert give(range(WORKFLOWS)), victim.told()
        # Stopped while it idles, else it would take the others as well, being faster.
        victim.send(signal.SIGSTOP)
        with Worker(database, effects.path) as other:
            assert give(range(WORKFLOWS, 2 * WORKFLOWS)), other.told()
            assert look(OWNERS) == 2
            victim.send(signal.SIGCONT)
            manager.update_config(max_parallelism=LIMIT)
            half = WORKFLOWS * ACTIONS  # of twice as many lines
            assert wait_until(lambda: is_done() or effects.count() > half), other.told()
            pids = {effect.pid for effect in effects.read()}
            victim.kill()
            assert wait_until(is_done), other.told()
    manager.close()

    assert pids == {victim.pid, other.pid}  # both have worked at the same time
    assert 1 < max(recorded) <= LIMIT
    assert 1 < most_at_once(effects.read(), {victim.pid}) <= LIMIT
    assert Checker(database, effects, Known()).faults() == []
